"""Agreement between processes to stop or to save at the same step, without blocking any step.

Signals reach the processes at different times, and clocks differ. The requests of all processes at
one step boundary are all-reduced asynchronously during the next step and acted on after it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What all processes do at a step boundary.

    Attributes:
        stop: save and stop.
        save: save a checkpoint and continue.
    """

    stop: bool = False
    save: bool = False


class Agreement:
    """Exchange of requests to stop or to save; created by all processes of a run together."""

    def __init__(self) -> None:
        # A separate gloo group on the CPU: no step waits for the GPU, and the exchange does not
        # interleave with other collectives.
        several = dist.is_initialized() and dist.get_world_size() > 1
        self.group = dist.new_group(backend="gloo") if several else None
        self.requests = torch.zeros(2, dtype=torch.int32)
        self.pending: dist.Work | None = None

    def exchange(self, *, stop: bool, save: bool) -> Decision:
        """Send this process's requests and return the decision on those of the previous call.

        All processes get the same decision at the same call. A single process gets its own
        requests back immediately.
        """
        if self.group is None:
            return Decision(stop=stop, save=save)
        decision = self._finish_exchange()
        if not decision.stop:
            # If a checkpoint is due now, drop this process's request to save after the next step.
            self.requests = torch.tensor([stop, save and not decision.save], dtype=torch.int32)
            self.pending = dist.all_reduce(
                self.requests, dist.ReduceOp.MAX, group=self.group, async_op=True
            )
        return decision

    def finish(self) -> None:
        """Wait for the pending exchange; required before the process group is destroyed."""
        self._finish_exchange()

    def abandon(self) -> None:
        """After a failure: do not wait for a pending exchange that other processes may never join.

        Destroying the group, and with it the exit of this process, would block on the exchange for
        half an hour, and torch has no call that cancels it. Keep the group alive until the process
        exits.
        """
        if self.pending is not None and not self.pending.is_completed():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.group))

    def _finish_exchange(self) -> Decision:
        if self.pending is None:
            return Decision()
        self.pending.wait()
        self.pending = None
        stop, save = self.requests.tolist()
        return Decision(stop=bool(stop), save=bool(save))
