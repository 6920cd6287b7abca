"""Fingerprints: hashes of the initial weights outside the norm layers and of the first batches.

Both runs of a matched pair must have the same fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

BATCHES = 4
"""Number of optimizer steps whose batches are hashed."""


def weights_digest(model: nn.Module, norms: Sequence[str], inherited: Collection[str] = ()) -> str:
    """Hash names, shapes, dtypes and bits of all weights and buffers outside the norm layers.

    Args:
        model: the model before the first step.
        norms: paths of its norm layers, as ``dyt.convert`` reports them, and the names of other
            parameters that not every arm has.
        inherited: state-dict names of weights from another run, which are left out.
    """
    norm_prefixes = tuple(f"{path}." for path in norms)
    left_out = {*norms, *(_plain_name(name) for name in inherited)}
    state = {_plain_name(name): tensor for name, tensor in model.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not name.startswith(norm_prefixes) and name not in left_out:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _plain_name(name: str) -> str:
    """Remove the infix of torch.nn.utils.parametrize, which renames a weight but keeps its bits."""
    return name.replace(".parametrizations.weight.original", ".weight")


def batch_digest(batch: Any) -> str:
    """Hash the tensors of a micro-batch: nested lists, tuples and dicts."""
    digest = hashlib.sha256()
    for tensor in _tensors(batch):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def digest_of(digests: Iterable[str]) -> str:
    """Combine several hashes, in their order, into one."""
    return hashlib.sha256("-".join(digests).encode()).hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> bytes:
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
