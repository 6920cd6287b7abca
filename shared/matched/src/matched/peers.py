"""Communication between the processes of one job outside of its runs: broadcast and barrier.

A run's process group fails together with the run. These go through the job's rendezvous store
instead, so that the remaining processes can still agree on what to do next.
"""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from functools import cached_property
from typing import Any

from matched import signals
from matched.rendezvous import rendezvous_store
from matched.signals import Interrupted

POLL_SECONDS = 5.0
"""How long to wait for rank 0's value before looking for a stop signal; the value may take long."""
CLOSE_TIMEOUT = 30
"""Seconds that rank 0, which hosts the store, waits for the others to stop reading from it."""

GLOO_ERROR = re.compile("gloo/")
"""Matches the message of every error of gloo's transport: it begins with the source file.

Gloo is the only backend whose errors reach Python as plain RuntimeErrors, such as
"[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer …".
"""


class PeerLostError(RuntimeError):
    """A collective failed because another process of the run is gone."""


def is_connection_error(error: BaseException) -> bool:
    """True if an error is that of a collective or of the store, not one of the computation."""
    import torch.distributed as dist

    # DistError is the base of DistBackendError (NCCL), DistNetworkError and DistStoreError.
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(GLOO_ERROR.search(str(error)))


class Peers:
    """This process among the processes of its job, by torchrun's environment variables."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))

    @cached_property
    def _store(self) -> Any:
        import torch.distributed as dist

        return dist.PrefixStore("peers", rendezvous_store())

    def broadcast(self, key: str, value: str | None) -> str:
        """Return rank 0's value on every rank; the value that other ranks pass is ignored.

        Args:
            key: different for every broadcast of the job.

        Raises:
            Interrupted: if this process gets a stop signal while it waits.
            RuntimeError: if rank 0 is gone.
        """
        if self.world_size == 1 or self.rank == 0:
            assert value is not None, "rank 0 must pass the value"
            if self.world_size > 1:
                self._store.set(key, value)
            return value
        import torch.distributed as dist

        while True:
            try:
                self._store.wait([key], timedelta(seconds=POLL_SECONDS))
                return str(self._store.get(key), encoding="utf-8")
            except dist.DistStoreError:
                if signals.stop_signal():
                    raise Interrupted from None

    def barrier(self, name: str, seconds: float) -> bool:
        """Wait until every process has reached the barrier; False if one does not in time.

        A rank that is blocked in an abandoned collective never reaches it.

        Args:
            name: different for every barrier of the job.
        """
        if self.world_size == 1:
            return True
        try:
            self._store.set(f"barrier/{name}/{self.rank}", "")
            keys = [f"barrier/{name}/{rank}" for rank in range(self.world_size)]
            self._store.wait(keys, timedelta(seconds=seconds))
        except RuntimeError:  # the timeout, or rank 0 is gone and the store with it
            return False
        return True

    def close(self) -> None:
        """Leave the store; rank 0, which hosts it, waits for the others to leave first."""
        if self.world_size > 1 and "_store" in vars(self):
            deadline = time.monotonic() + CLOSE_TIMEOUT
            self._store.add("closed", 1)
            while self.rank == 0 and time.monotonic() < deadline:
                if self._store.add("closed", 0) >= self.world_size:
                    return
                time.sleep(0.05)
