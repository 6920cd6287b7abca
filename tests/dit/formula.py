"""Weights, latents and noise from a formula: the same numbers on any machine, random or not."""

import numpy as np
import torch

T = (0, 1, 40, 250, 700, 999)
"""Steps at which losses are compared; the first has a term of its own."""


def job_arrays(shape, number, scale):
    """float32 values between -scale and scale, told apart by ``number``."""
    places = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = scale * np.sin(places * (0.7 + 0.01 * number) + number)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def weights(shapes):
    """A state dict for {name: shape}; no layer is zero, so that nothing is hidden."""
    return {name: job_arrays(shapes[name], i, 0.06) for i, name in enumerate(sorted(shapes))}


def inputs(size=8, channels=4):
    """Latents (6, C, size, size), steps, labels (one of no class), noise."""
    shape = (len(T), channels, size, size)
    labels = torch.tensor([3, 999, 1000, 5, 0, 17])
    return job_arrays(shape, 1.5, 0.9), torch.tensor(T), labels, job_arrays(shape, 2.5, 1.3)
