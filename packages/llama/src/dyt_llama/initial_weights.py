"""Initial weights drawn by address, in blocks of rows that any process can draw by itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from matched.training.seeding import generator

BLOCK = 1 << 20
"""Numbers drawn by one generator, at most, unless one row has more."""


def fill_normal(weight: Tensor, std: float, *address: int | str) -> None:
    """Fill a weight (rows, columns) with normal numbers of mean 0, in place.

    Each block of rows has a generator of its own, seeded for (address, block) on the CPU: the
    numbers depend neither on the device nor on how a sharded weight is divided, and a process draws
    those of its own rows only.

    Args:
        weight: on any device; a DTensor may be sharded over its rows.
    """
    if isinstance(weight, DTensor):
        shape, offset = compute_local_shape_and_global_offset(
            weight.shape, weight.device_mesh, weight.placements
        )
        assert tuple(shape[1:]) == tuple(weight.shape[1:]), "sharded over its rows only"
        rows, first = weight.to_local(), offset[0]
    else:
        rows, first = weight, 0
    if not rows.numel():
        return
    count, columns = weight.shape
    per_block = min(count, max(1, BLOCK // columns))
    last = first + len(rows)
    for block in range(first // per_block, -(-last // per_block)):
        start = block * per_block
        # Whole blocks, also at the end of the weight: a generator's numbers depend on their count.
        drawn = torch.empty(per_block, columns).normal_(
            0.0, std, generator=generator(*address, block)
        )
        begin, end = max(first, start), min(last, start + per_block)
        rows[begin - first : end - first].copy_(drawn[begin - start : end - start])
