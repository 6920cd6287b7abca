"""Weights, latents and noise from a formula: the same on any machine, without random numbers."""

import numpy as np
import torch

T = (0, 1, 40, 250, 700, 999)
"""Steps at which losses are compared; the loss of the first has a different form."""


def formula_array(shape, number, scale):
    """Return float32 values between -scale and scale, different for each ``number``."""
    positions = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = scale * np.sin(positions * (0.7 + 0.01 * number) + number)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def weights(shapes):
    """Return a state dict for {name: shape}, without zero layers that could hide differences."""
    return {name: formula_array(shapes[name], i, 0.06) for i, name in enumerate(sorted(shapes))}


def inputs(size=8, channels=4):
    """Return latents (6, C, size, size), steps, labels (one is "no label") and noise."""
    shape = (len(T), channels, size, size)
    labels = torch.tensor([3, 999, 1000, 5, 0, 17])
    return formula_array(shape, 1.5, 0.9), torch.tensor(T), labels, formula_array(shape, 2.5, 1.3)
