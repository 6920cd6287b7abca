"""Rendezvous of a job's processes: the one key-value store through which they find each other."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def rendezvous_store() -> Any:
    """Return the job's ``torch.distributed.Store``, at torchrun's MASTER_ADDR and MASTER_PORT.

    All runs of a job share it, each under its own prefix. With one store per run on the same
    port, a process that is early for a run would connect to the store of the previous run.
    """
    import torch.distributed as dist

    store, _, _ = next(dist.rendezvous("env://"))
    return store
