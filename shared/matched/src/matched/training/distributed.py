"""One process or many: the process group of a run, and the few things that processes exchange."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from matched.rendezvous import rendezvous_store
from matched.task import Context

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long processes wait for what one of them does alone. That it is gone they see at once."""

_words: dist.ProcessGroup | None = None
"""The group in which processes exchange values that are no tensors of the computation."""


@contextmanager
def process_group(context: Context) -> Iterator[torch.device]:
    """The device of this process, inside a process group if the run has several.

    The environment variables are torchrun's (MASTER_ADDR, RANK, …), which submitit's
    TorchDistributedEnvironment exports too.

    What is no part of the computation goes through a second group, on the CPU: NCCL ends a process
    that has waited ten minutes, and reading through a data set or scoring 50,000 images, which one
    process does alone, may take longer.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", context.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(context.threads)
    if context.world_size == 1:
        yield device
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(context.signature, rendezvous_store()),
        rank=context.rank,
        world_size=context.world_size,
    )
    global _words
    _words = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        _words = None
        dist.destroy_process_group()


def all_gather_objects(value: Any) -> list[Any]:
    """``value`` of every process, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_words)
    return values


def on_rank0(work: Callable[[], T]) -> T:
    """What ``work`` gives on the first process, which alone does it; its error is raised on all."""
    if not dist.is_initialized():
        return work()
    told: list[Any] = [None, None]
    failure = None
    if dist.get_rank() == 0:
        try:
            told[0] = work()
        except BaseException as error:
            failure, told[1] = error, _sendable(error)
    dist.broadcast_object_list(told, src=0, group=_words)
    result, reason = told
    if failure is not None:
        raise failure
    if reason is not None:
        raise reason
    return result


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """An exception in the block of one process is raised on all of them, which all have to come
    to its end."""
    own = None
    try:
        yield
    except Exception as error:
        own = error
    told = all_gather_objects(None if own is None else _sendable(own))
    if own is not None:
        raise own
    for error in told:
        if error is not None:
            raise error


def _sendable(error: BaseException) -> BaseException:
    """The error itself, so that all processes treat it alike, or what can be said of it."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"another process failed: {type(error).__name__}: {error}")


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers, such as the running statistics of BatchNorm."""
    work = [dist.broadcast(buffer, src=0, async_op=True) for buffer in model.buffers()]
    for broadcast in work:
        broadcast.wait()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in place; the tensor itself for one process."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value
