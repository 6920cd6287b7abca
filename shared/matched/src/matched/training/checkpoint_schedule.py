"""What a loop does between two steps: save when it is time to, and stop when it was asked to.

For the shared loop, and for those around a trainer that a domain brings.
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
    """Entered by all processes of a run together, around all of its steps.

    Args:
        save: writes a checkpoint unless there is one of this step; called by all processes at the
            same step.
        steps: how many there are in all.
    """

    def __init__(self, context: Context, save: Callable[[], None], steps: int) -> None:
        self.context, self.save, self.steps = context, save, steps
        self.saved_at = time.perf_counter()
        """When it was last saved, or when the loop began."""

    def __enter__(self) -> CheckpointSchedule:
        self.agreement = Agreement()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.agreement.abandon()
            return
        try:
            self.agreement.drain()
        except BaseException:
            self.agreement.abandon()
            raise

    def after_step(self, step: int) -> None:
        """After step ``step`` and before the next one.

        Raises:
            Interrupted: on all processes, if one was asked to stop; what was reached is saved.
        """
        if step % self.context.checkpoint_steps == 0:
            self._save()
        late = time.perf_counter() - self.saved_at >= 60 * self.context.checkpoint_minutes
        decision = self.agreement.decide(
            stop=signals.stop_signal() is not None, save=late and self.context.rank == 0
        )
        if decision.save or decision.stop:
            self._save()
        if decision.stop:
            log.info("interrupted after step %d of %d, which is saved", step, self.steps)
            raise signals.Interrupted

    def _save(self) -> None:
        self.save()
        self.saved_at = time.perf_counter()
