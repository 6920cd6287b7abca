"""One process or many: the process group of a run, and the few things that processes exchange."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from matched.worker import Context


@contextmanager
def process_group(context: Context) -> Iterator[torch.device]:
    """The device of this process, inside a process group if the run has several.

    The environment variables are torchrun's (MASTER_ADDR, RANK, …), which submitit's
    TorchDistributedEnvironment exports too.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", context.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(context.threads)
    if context.world == 1:
        yield device
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(context.signature, _meeting_point()),
        rank=context.rank,
        world_size=context.world,
    )
    try:
        yield device
    finally:
        dist.destroy_process_group()


@cache
def _meeting_point() -> dist.Store:
    """Where the processes of a job find each other: one store for all its runs.

    With one each, on the same port, a process that is early for a run would wait at the store of
    the run before.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    return store


def gathered(value: Any) -> list[Any]:
    """``value`` of every process, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in place; the tensor itself for one process."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value
