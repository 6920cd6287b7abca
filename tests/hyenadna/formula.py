"""Weights and inputs by formula, so that golden values need no data in the repository."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dyt_hyenadna.network_config import HyenaNetwork

LENGTH = 48
NETWORK = HyenaNetwork(width=16, layers=2, max_length=LENGTH + 2)
CLASSES = 3
EMBEDDING = "backbone.embeddings.word_embeddings"


def weights_by_formula(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return values for every tensor of a state dict, as functions of their shape and name.

    Buffers keep their values, and tied tensors are equal.
    """
    values = {}
    for name, tensor in state.items():
        kind = name.rpartition(".")[2]
        if kind in ("z", "t", "deltas"):
            values[name] = tensor
            continue
        phase = sum(map(ord, "freq" if kind == "freq" else name.replace("lm_head", EMBEDDING)))
        wave = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + phase)
        is_norm = "norm" in name or "ln_f" in name
        if kind == "freq":
            wave = 10 + wave
        elif kind == "alpha":
            wave = 0.5 + 0.1 * wave
        elif is_norm and kind == "weight":
            wave = 1 + 0.1 * wave
        else:
            # Larger values in the filters, whose frequencies are 10, would amplify rounding.
            wave = (0.03 if "implicit_filter" in name else 0.3) * wave
        values[name] = wave.reshape(tensor.shape).float()
    return values


def ids_by_formula(step: int = 0) -> Tensor:
    """Return token ids (4, LENGTH): the bases and N, ids 7 to 11."""
    position = torch.arange(4 * LENGTH).reshape(4, LENGTH)
    return 7 + (position * position // 3 + 5 * position + step) % 5


def labels_by_formula(step: int = 0) -> Tensor:
    """Return class labels (4,)."""
    return (torch.arange(4) + step) % CLASSES


def fingerprint(tensor: Tensor) -> float:
    """Return a number of the size of a tensor's values that depends on each and its place."""
    values = tensor.detach().double().flatten()
    weights = torch.cos(0.3 * torch.arange(len(values), dtype=torch.float64))
    return float((values * weights).sum() / len(values) ** 0.5)
