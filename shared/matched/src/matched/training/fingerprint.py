"""Fingerprints: hashes of the initial weights outside the norm layers and of the first batches.

Both runs of a matched pair must have the same fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from matched.training.distributed import all_gather_objects

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
    digest = hashlib.sha256()
    for name, tensor in _compared_weights(model, norms, inherited):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def divided_weights_digest(
    model: nn.Module, norms: Sequence[str], inherited: Collection[str] = ()
) -> str:
    """Like ``weights_digest``, for weights that may be sharded over their rows; no gathering.

    Each process hashes its own rows, and the hash of a weight is the sum of its rows' hashes, so it
    depends neither on the number of processes nor on how rows are divided. It differs from that of
    ``weights_digest``. All processes call it.
    """
    parts: dict[str, tuple[int, int]] = {}  # name → first row, sum of the hashes of the own rows
    heads = {}
    for name, tensor in _compared_weights(model, norms, inherited):
        heads[name] = f"{name} {tuple(tensor.shape)} {tensor.dtype}"
        rows, first = _own_rows(tensor)
        if len(rows):
            parts[name] = first, _sum_of_row_hashes(heads[name], rows, first)
    sums: dict[str, dict[int, int]] = {name: {} for name in heads}
    for of_rank in all_gather_objects(parts):
        for name, (first, value) in of_rank.items():
            sums[name][first] = value  # replicas of the same rows have the same
    return digest_of(f"{heads[name]} {sum(sums[name].values()) % 2**64}" for name in heads)


def _own_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return this process's rows of a weight, and the number of the first."""
    if not isinstance(tensor, DTensor):
        return tensor.reshape(max(1, len(tensor)) if tensor.ndim else 1, -1), 0
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    local = tensor.to_local()
    return local.reshape(len(local), -1), offset[0]


def _sum_of_row_hashes(head: str, rows: torch.Tensor, first: int) -> int:
    total = 0
    for number, row in enumerate(rows.detach().cpu().contiguous(), first):
        content = hashlib.blake2b(f"{head} {number}".encode(), digest_size=8)
        content.update(row.view(torch.uint8).numpy())
        total += int.from_bytes(content.digest())
    return total


def _compared_weights(
    model: nn.Module, norms: Sequence[str], inherited: Collection[str]
) -> list[tuple[str, torch.Tensor]]:
    """Return the weights and buffers outside of norm layers and other runs, sorted by name."""
    norm_prefixes = tuple(f"{path}." for path in norms)
    left_out = {*norms, *(_plain_name(name) for name in inherited)}
    state = {_plain_name(name): tensor for name, tensor in model.state_dict().items()}
    return [
        (name, tensor)
        for name, tensor in sorted(state.items())
        if not name.startswith(norm_prefixes) and name not in left_out
    ]


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
