"""What a pair of runs must have in common: their first weights outside the norms, their batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

BATCHES = 4
"""How many optimiser steps' batches are hashed."""


def weights_digest(model: nn.Module, norms: Sequence[str], inherited: Collection[str] = ()) -> str:
    """Hash of names, shapes, dtypes and bits of all weights that lie in no norm layer.

    Args:
        model: the model as it is before the first step.
        norms: paths of its norm layers, as ``dyt.convert`` reports them.
        inherited: names of what another run has trained, which are left out.
    """
    inside = tuple(f"{path}." for path in norms)
    left = {_plain(name) for name in inherited}
    state = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not name.startswith(inside) and name not in left:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bits(tensor))
    return digest.hexdigest()[:16]


def _plain(name: str) -> str:
    """Without torch.nn.utils.parametrize's infix: the weight has another name, not other bits."""
    return name.replace(".parametrizations.weight.original", ".weight")


def batch_digest(batch: Any) -> str:
    """Hash of the tensors of a micro-batch."""
    digest = hashlib.sha256()
    for tensor in _tensors(batch):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bits(tensor))
    return digest.hexdigest()[:16]


def digest_of(digests: Iterable[str]) -> str:
    """One hash for several, in their order."""
    return hashlib.sha256("-".join(digests).encode()).hexdigest()[:16]


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
