"""What the processes of one job agree on between runs: which run is next, whether it is over.

Within a run they talk through its process group, which fails with it; this goes on.
"""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from functools import cached_property
from typing import Any

from matched import signals
from matched.signals import Interrupted

LOSS = re.compile(r"gloo/|NCCL|Connection (closed|reset|refused)|Broken pipe|TCPStore")
WORD = timedelta(seconds=5)
"""How long to wait for a word before looking up; the first process may take long to give it."""


class PeerLost(RuntimeError):
    """A process of the run is gone, and with it what the others were exchanging with it."""


def is_loss(error: BaseException) -> bool:
    """Whether an error is that of a collective whose other end is gone.

    Gloo raises a plain RuntimeError, so its words have to tell.
    """
    if any(kind.__name__ == "DistError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and bool(LOSS.search(str(error)))


class Peers:
    """This process among those of its job, by torchrun's environment variables."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))

    @cached_property
    def _store(self) -> Any:
        import torch.distributed as dist

        from matched.training.distributed import rendezvous_store

        return dist.PrefixStore("peers", rendezvous_store())

    def agree(self, topic: str, word: str | None) -> str:
        """What the first process says about ``topic``; the others' ``word`` is not looked at.

        Raises:
            Interrupted: if this process is asked to stop meanwhile.
            RuntimeError: if the first process is gone.
        """
        if self.world_size == 1 or self.rank == 0:
            assert word is not None, "the first process has to have a word"
            if self.world_size > 1:
                self._store.set(topic, word)
            return word
        import torch.distributed as dist

        while True:
            try:
                self._store.wait([topic], WORD)
                return str(self._store.get(topic), encoding="utf-8")
            except dist.DistStoreError:
                if signals.stop_signal():
                    raise Interrupted from None

    def all_over(self, run: str, seconds: float) -> bool:
        """Whether every process is done with ``run``, for good or ill, within so many seconds.

        One that hangs in a collective that another has left never is.
        """
        if self.world_size == 1:
            return True
        try:
            self._store.set(f"over/{run}/{self.rank}", "")
            keys = [f"over/{run}/{rank}" for rank in range(self.world_size)]
            self._store.wait(keys, timedelta(seconds=seconds))
        except RuntimeError:  # in vain, or the first process is gone
            return False
        return True

    def close(self) -> None:
        """The first process keeps the meeting point: it leaves last."""
        if self.world_size > 1 and "_store" in vars(self):
            deadline = time.monotonic() + 30
            self._store.add("parted", 1)
            while self.rank == 0 and time.monotonic() < deadline:
                if self._store.add("parted", 0) >= self.world_size:
                    return
                time.sleep(0.05)
