"""All processes of a run stop at the same step, and save at the same step, without waiting for it.

A signal reaches one process earlier than another, and a clock is one process's own. What each
wants at one step boundary is put together while the next step is computed, and obeyed after it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What all processes do at this step boundary."""

    stop: bool = False
    save: bool = False


class Agreement:
    """Made by all processes of a run together."""

    def __init__(self) -> None:
        # A group on the CPU of its own: no step waits for the GPU, and nothing else for this.
        several = dist.is_initialized() and dist.get_world_size() > 1
        self.group = dist.new_group(backend="gloo") if several else None
        self.wanted = torch.zeros(2, dtype=torch.int32)
        self.pending: dist.Work | None = None

    def decide(self, *, stop: bool, save: bool) -> Decision:
        """Tell the others what this process wants; what they all wanted a step ago is decided.

        Processes that have called this equally often get the same decision. One process alone
        decides at once.
        """
        if self.group is None:
            return Decision(stop=stop, save=save)
        decision = self._settled()
        if not decision.stop:
            # What is about to be saved need not be saved again.
            self.wanted = torch.tensor([stop, save and not decision.save], dtype=torch.int32)
            self.pending = dist.all_reduce(
                self.wanted, dist.ReduceOp.MAX, group=self.group, async_op=True
            )
        return decision

    def drain(self) -> None:
        """Wait for the exchange under way: the process group may not be destroyed before."""
        self._settled()

    def abandon(self) -> None:
        """After a failure: another process may never come to its part of the exchange under way.

        The end of the group, and so that of this process, would wait for it half an hour. No call
        of torch's ends it earlier, so the group is left to the system.
        """
        if self.pending is not None and not self.pending.is_completed():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.group))

    def _settled(self) -> Decision:
        if self.pending is None:
            return Decision()
        self.pending.wait()
        self.pending = None
        stop, save = self.wanted.tolist()
        return Decision(stop=bool(stop), save=bool(save))
