"""Metrics log: metrics.jsonl, progress.json and fingerprint.json of a training run.

metrics.jsonl has no times, so identical runs write identical lines. The file is kept open: a
process that has lost its run without noticing it writes to the replaced file, which no longer has a
name, and not between the lines of the new owner.
"""

from __future__ import annotations

import json
import logging
import math
import time
from typing import Any, TextIO

from matched.files import write_text
from matched.task import Context, write_progress
from matched.training.distributed import on_rank0

log = logging.getLogger("matched")
SECONDS_BETWEEN_PROGRESS = 0.5


class MetricsLog:
    """Log of one run; writes on rank 0 only.

    Args:
        steps: total number of steps.
    """

    def __init__(self, context: Context, steps: int) -> None:
        self.context = context
        self.steps = steps
        self.metrics = context.directory / "metrics.jsonl"
        self.file: TextIO | None = None
        self.shown: dict[str, float | None] = {}
        """The newest loss and metrics, for progress.json."""
        self.start_step, self.start_time = 0, 0.0
        self.progress_time = 0.0
        """Time of the last write of progress.json."""

    def start(self, step: int) -> None:
        """Open metrics.jsonl at ``step``; lines of later steps, from before an interruption, go."""
        self.start_step, self.start_time = step, time.perf_counter()
        if self.context.rank == 0:
            write_text(self.metrics, "".join(self._lines_up_to(step)))
            self.file = self.metrics.open("a", encoding="utf-8")
            self._write_progress(step)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def step(self, step: int, epoch: float, *, loss: float, lr: float, **more: Any) -> None:
        """Write a line with the loss; ``more`` has finite numbers, or lists or dicts of them."""
        if self.context.rank != 0:
            return
        self.shown["loss"] = _finite_or_none(loss)
        self._append(
            {"step": step, "epoch": epoch, "loss": _finite_or_none(loss), "lr": lr, **more}
        )
        if time.perf_counter() - self.progress_time > SECONDS_BETWEEN_PROGRESS:
            self._write_progress(step)

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Write a line with the metrics of an evaluation."""
        if self.context.rank != 0:
            return
        finite = {key: _finite_or_none(value) for key, value in metrics.items()}
        self.shown.update(finite)
        self._append({"step": step, "epoch": epoch, "evaluation": finite})
        self._write_progress(step)
        log.info("epoch %g: %s", epoch, {k: round(v, 4) for k, v in metrics.items()})

    def fingerprint(self, weights: str, batches: list[str]) -> None:
        """Write fingerprint.json on rank 0; all processes call it.

        Raises:
            LeaseLostError: on all of them, if another process has taken this run over.
        """
        on_rank0(lambda: self.context.write_fingerprint(weights=weights, batches=batches))

    def _lines_up_to(self, step: int) -> list[str]:
        if not self.metrics.exists():
            return []
        kept: list[str] = []
        text = self.metrics.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines(keepends=True):
            # The last line is incomplete if the process was killed while writing it.
            if not line.endswith("\n") or self._step_of(line, len(kept) + 1) > step:
                break
            kept.append(line)
        return kept

    def _step_of(self, line: str, number: int) -> int:
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.metrics}, line {number}, is damaged; delete the line to continue without "
                "it, or the run directory to start from the beginning"
            ) from None

    def _append(self, line: dict[str, Any]) -> None:
        assert self.file is not None, "MetricsLog.start has not been called"
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.metrics)) from error

    def _write_progress(self, step: int) -> None:
        self.progress_time = time.perf_counter()
        seconds = self.progress_time - self.start_time
        rate = (step - self.start_step) / seconds if step > self.start_step else None
        write_progress(
            self.context.directory, step, self.steps, steps_per_second=rate, shown=self.shown
        )


def _finite_or_none(value: float) -> float | None:
    """Return the value, or None for NaN and infinities, which JSON does not have."""
    return value if math.isfinite(value) else None
