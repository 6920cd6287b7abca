"""Checkpoint schedule: periodic checkpoints and checkpoints on preemption, between two steps.

Used by the shared training loop, and by loops around a domain's own trainer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from matched import signals
from matched.task import Context
from matched.training.agreement import Agreement

log = logging.getLogger("matched")


class CheckpointSchedule:
    """Context manager around all steps of a run, entered by all of its processes together.

    Args:
        save: write a checkpoint, unless there is already one of this step. All processes call it at
            the same step.
        steps: total number of steps, for the log.
        clock: returns seconds, for the time between checkpoints.
    """

    def __init__(
        self,
        context: Context,
        save: Callable[[], None],
        steps: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.context, self.save, self.steps, self.clock = context, save, steps, clock
        self.last_save_time = clock()
        """Time of the last checkpoint, or of the start of the loop."""

    def __enter__(self) -> CheckpointSchedule:
        self.agreement = Agreement()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.agreement.abandon()
            return
        try:
            self.agreement.finish()
        except BaseException:
            self.agreement.abandon()
            raise

    def after_step(self, step: int) -> None:
        """Save or stop if due after ``step`` steps.

        Raises:
            Interrupted: on all processes, if one received a stop signal; the state is saved.
        """
        if step % self.context.checkpoint_steps == 0:
            self._save()
        elapsed = self.clock() - self.last_save_time
        save_due = self.context.rank == 0 and elapsed >= 60 * self.context.checkpoint_minutes
        stop_due = signals.stop_signal() is not None
        decision = self.agreement.exchange(stop=stop_due, save=save_due)
        if decision.save or decision.stop:
            self._save()
        if decision.stop:
            log.info("interrupted after step %d of %d, which is saved", step, self.steps)
            raise signals.Interrupted

    def _save(self) -> None:
        self.save()
        self.last_save_time = self.clock()
