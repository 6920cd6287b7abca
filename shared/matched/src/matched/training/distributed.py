"""Process groups and the collectives that runs use; all of them work in a single process too."""

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
OBJECT_TIMEOUT = timedelta(days=1)
"""How long processes wait for work that one of them does alone.

The loss of a process is noticed immediately, not after this time.
"""

_object_group: dist.ProcessGroup | None = None
"""Group on the CPU for the exchange of Python objects; None outside of ``process_group``."""


@contextmanager
def process_group(context: Context) -> Iterator[torch.device]:
    """Yield this process's device, inside a process group if the run has several processes.

    Reads torchrun's environment variables (MASTER_ADDR, RANK, …), which submitit's
    TorchDistributedEnvironment exports too.

    Python objects are exchanged through a second group, on the CPU: NCCL's 10-minute timeout is too
    short for work that rank 0 does alone, such as reading through a data set or scoring 50,000
    images.
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
    global _object_group
    _object_group = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    try:
        yield device
    finally:
        _object_group = None
        dist.destroy_process_group()


def all_gather_objects(value: Any) -> list[Any]:
    """Return ``value`` of every process, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_object_group)
    return values


def on_rank0(work: Callable[[], T]) -> T:
    """Call ``work`` on rank 0 only and return its result, or raise its error, on all processes."""
    if not dist.is_initialized():
        return work()
    message: list[Any] = [None, None]  # result, error
    failure = None
    if dist.get_rank() == 0:
        try:
            message[0] = work()
        except BaseException as error:
            failure, message[1] = error, _picklable(error)
    dist.broadcast_object_list(message, src=0, group=_object_group)
    result, error_of_rank0 = message
    if failure is not None:
        raise failure
    if error_of_rank0 is not None:
        raise error_of_rank0
    return result


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise an exception of the block of one process on all processes.

    All of them must reach the end of the block.
    """
    own_error: Exception | None = None
    try:
        yield
    except Exception as error:
        own_error = error
    errors = all_gather_objects(None if own_error is None else _picklable(own_error))
    if own_error is not None:
        raise own_error
    for gathered_error in errors:
        if gathered_error is not None:
            raise gathered_error


def _picklable(error: BaseException) -> BaseException:
    """Return the error itself, so that all processes treat it alike, or a RuntimeError for it."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"another process failed: {type(error).__name__}: {error}")


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank 0's buffers, such as the running statistics of BatchNorm, to all processes."""
    broadcasts = [dist.broadcast(buffer, src=0, async_op=True) for buffer in model.buffers()]
    for broadcast in broadcasts:
        broadcast.wait()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value
