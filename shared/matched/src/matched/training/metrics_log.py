"""What a run writes while it trains: metrics.jsonl, progress.json and fingerprint.json.

metrics.jsonl holds no times, so that two identical runs write identical lines. It is kept open:
a process that another has replaced, unknown to it, goes on writing to a file that no longer has
a name, and not between the lines of the other.
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
    """Writes for rank 0; for other processes it does nothing."""

    def __init__(self, context: Context, steps: int) -> None:
        self.context = context
        self.steps = steps
        self.metrics = context.directory / "metrics.jsonl"
        self.shown: dict[str, float | None] = {}
        self.first: tuple[int, float] = (0, 0.0)
        self.progress_at = 0.0
        self.file: TextIO | None = None

    def start(self, step: int) -> None:
        """Begin at ``step``: lines of later steps, from before a cut, are dropped."""
        self.first = (step, time.perf_counter())
        if self.context.rank == 0:
            write_text(self.metrics, "".join(self._lines_up_to(step)))
            self.file = self.metrics.open("a", encoding="utf-8")
            self._progress(step)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def step(self, step: int, epoch: float, *, loss: float, lr: float, **more: Any) -> None:
        """Tell of a step; ``more``: finite numbers, or what is made of them."""
        if self.context.rank != 0:
            return
        self.shown["loss"] = _finite(loss)
        self._append({"step": step, "epoch": epoch, "loss": _finite(loss), "lr": lr, **more})
        if time.perf_counter() - self.progress_at > SECONDS_BETWEEN_PROGRESS:
            self._progress(step)

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        if self.context.rank != 0:
            return
        written = {key: _finite(value) for key, value in metrics.items()}
        self.shown.update(written)
        self._append({"step": step, "epoch": epoch, "evaluation": written})
        self._progress(step)
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
            # The last line may have been cut with the process that wrote it.
            if not line.endswith("\n") or self._step_of(line, len(kept) + 1) > step:
                break
            kept.append(line)
        return kept

    def _step_of(self, line: str, number: int) -> int:
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.metrics}, line {number}, is damaged; delete the line to go on without it, "
                "or the run's directory to start from the beginning"
            ) from None

    def _append(self, line: dict[str, Any]) -> None:
        assert self.file is not None, "the journal has not been started"
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.metrics)) from error

    def _progress(self, step: int) -> None:
        self.progress_at = time.perf_counter()
        begun, at = self.first
        seconds = self.progress_at - at
        rate = (step - begun) / seconds if step > begun else None
        write_progress(
            self.context.directory, step, self.steps, steps_per_second=rate, shown=self.shown
        )


def _finite(value: float) -> float | None:
    """The value, or None for a NaN or an infinity, which JSON has not."""
    return value if math.isfinite(value) else None
