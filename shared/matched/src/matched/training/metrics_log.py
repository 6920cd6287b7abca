"""Metrics log: metrics.jsonl, performance.jsonl, progress.json and fingerprint.json of a run.

metrics.jsonl has no times, so identical runs write identical lines; whatever depends on the machine
(throughput, memory, time of day) is in performance.jsonl. Both files are kept open: a process that
has lost its lease keeps writing to the unlinked files, not to those of the new owner.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from matched.files import write_text
from matched.task import Context, write_progress
from matched.training.distributed import on_rank0

log = logging.getLogger("matched")
SECONDS_BETWEEN_PROGRESS = 0.5


class StepLines:
    """A file with one JSON object per line, each with a "step"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: TextIO | None = None

    def open(self, step: int) -> None:
        """Open the file to append lines; delete those of steps later than ``step``.

        Raises:
            ValueError: if a line is damaged.
        """
        write_text(self.path, "".join(self._lines_up_to(step)))
        self.file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line; NaN and infinities, which JSON does not have, become null."""
        assert self.file is not None, "StepLines.open has not been called"
        try:
            self.file.write(json.dumps(_finite(line)) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _lines_up_to(self, step: int) -> list[str]:
        if not self.path.exists():
            return []
        kept: list[str] = []
        text = self.path.read_text(encoding="utf-8", errors="replace")
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
                f"{self.path}, line {number}, is damaged; delete the line to continue without "
                "it, or the run directory to start from the beginning"
            ) from None


class MetricsLog:
    """Log of one run; writes on rank 0 only.

    Args:
        steps: total number of steps.
    """

    def __init__(self, context: Context, steps: int) -> None:
        self.context = context
        self.steps = steps
        self.metrics = StepLines(context.directory / "metrics.jsonl")
        self.performance = StepLines(context.directory / "performance.jsonl")
        self.shown: dict[str, float | None] = {}
        """The newest loss and metrics, for progress.json."""
        self.start_step, self.start_time = 0, 0.0
        self.progress_time = 0.0
        """Time of the last write of progress.json."""

    def start(self, step: int) -> None:
        """Open both files at ``step``; delete lines of later steps, from before an interruption."""
        self.start_step, self.start_time = step, time.perf_counter()
        if self.context.rank == 0:
            self.metrics.open(step)
            self.performance.open(step)
            self._write_progress(step)

    def close(self) -> None:
        try:
            self.metrics.close()
        finally:
            self.performance.close()

    def step(
        self,
        step: int,
        epoch: float,
        *,
        loss: float,
        lr: float,
        gradient_norm: float,
        performance: Mapping[str, float] | None = None,
        **more: Any,
    ) -> None:
        """Write the lines of a step to both files.

        Args:
            gradient_norm: norm of all gradients together, before clipping.
            performance: what depends on the machine; no line without it.
            more: further numbers for metrics.jsonl, or dicts of them.
        """
        if self.context.rank != 0:
            return
        self.shown["loss"] = _finite(loss)
        values = {"loss": loss, "lr": lr, "gradient_norm": gradient_norm}
        self.metrics.append({"step": step, "epoch": epoch, **values, **more})
        if performance:
            self.performance.append({"step": step, "time": round(time.time(), 3), **performance})
        if time.perf_counter() - self.progress_time > SECONDS_BETWEEN_PROGRESS:
            self._write_progress(step)

    def evaluation(
        self,
        step: int,
        epoch: float,
        metrics: Mapping[str, float],
        alpha: Mapping[str, float] | None = None,
    ) -> None:
        """Write a line with the metrics of an evaluation, and ``alpha`` unless it is empty.

        Args:
            alpha: α of each DyT layer by path, and s by ``path.shift``.
        """
        if self.context.rank != 0:
            return
        self.shown.update(_finite(metrics))
        line: dict[str, Any] = {"step": step, "epoch": epoch, "evaluation": metrics}
        self.metrics.append(line | ({"alpha": alpha} if alpha else {}))
        self._write_progress(step)
        log.info("epoch %g: %s", epoch, {k: round(v, 4) for k, v in metrics.items()})

    def fingerprint(self, weights: str, batches: list[str]) -> None:
        """Write fingerprint.json on rank 0; all processes call it.

        Raises:
            LeaseLostError: on all of them, if another process has taken this run over.
        """
        on_rank0(lambda: self.context.write_fingerprint(weights=weights, batches=batches))

    def _write_progress(self, step: int) -> None:
        self.progress_time = time.perf_counter()
        seconds = self.progress_time - self.start_time
        rate = (step - self.start_step) / seconds if step > self.start_step else None
        write_progress(
            self.context.directory, step, self.steps, steps_per_second=rate, shown=self.shown
        )


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinities, also inside of dicts, replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
