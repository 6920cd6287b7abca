"""The directory of one run: what is in it, and what its files say of the run's state.

config.json       the run: task, config, needs, signature
environment.json  versions, git commit, hardware of the last start
job.json          who was asked to compute it, and when
fingerprint.json  hashes of the initial non-norm weights and of the first batches
metrics.jsonl     one line per logged step and per evaluation
progress.json     how far a living run is
checkpoints/      the last two
log.txt           what happened, tracebacks included
failure.json      why the last attempt failed
result.json       exists if and only if the run has finished
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from matched.files import Damaged, read_json, write_json
from matched.run import Run


class State(StrEnum):
    """Where a run stands, read from its directory and the job that it was given to."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    DAMAGED = "damaged"
    DIVERGED = "diverged"
    DONE = "done"

    @property
    def finished(self) -> bool:
        return self in (State.DONE, State.DIVERGED)

    @property
    def live(self) -> bool:
        return self in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A run's state, with the reason in words where there is one, and its result if it has one."""

    state: State
    why: str = ""
    result: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None


class RunDirectory:
    """Reads and writes the directory of ``run`` below the folder ``runs``."""

    def __init__(self, runs: Path, run: Run) -> None:
        self.run = run
        self.path = runs / run.folder

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def prepare(self) -> None:
        """Make the directory and write config.json; keep it if it is there.

        Raises:
            Damaged: if config.json is there but is not this run's.
        """
        (self / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not self.config_fits():
            config = {"signature": self.run.signature, **self.run.description}
            write_json(self / "config.json", config)

    def config_fits(self) -> bool:
        """Whether config.json is there.

        Raises:
            Damaged: if it is not this run's.
        """
        config = read_json(self / "config.json")
        if config is None:
            return False
        if config != {"signature": self.run.signature, **self.run.description}:
            raise Damaged(f"{self / 'config.json'} does not describe run {self.run.signature}")
        return True

    def result(self) -> dict[str, Any] | None:
        """result.json, or None while the run has not finished.

        Raises:
            Damaged: if it is truncated, belongs to another signature, or has no config.json.
        """
        path = self / "result.json"
        result = read_json(path, ("signature", "outcome", "metrics"))
        if result is None:
            return None
        if result["signature"] != self.run.signature:
            raise Damaged(f"{path} is of signature {result['signature']}, not {self.run.signature}")
        if result["outcome"] not in (State.DONE, State.DIVERGED):
            raise Damaged(f"{path} has the outcome {result['outcome']!r}, not done or diverged")
        if not self.config_fits():
            raise Damaged(f"{path} has no config.json beside it")
        return result

    def job(self) -> dict[str, Any] | None:
        """job.json, or None if nobody was asked to compute the run.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "job.json", ("key", "cluster", "job_id", "host", "folder", "at"))

    def failure(self) -> dict[str, Any] | None:
        """failure.json, or None if the last attempt has not failed.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "failure.json", ("why", "at"))

    def progress(self) -> dict[str, Any] | None:
        """progress.json, or None if the run never began.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "progress.json", ("step", "steps", "at"))

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        (self / "failure.json").unlink(missing_ok=True)
        write_json(self / "result.json", {"signature": self.run.signature, **outcome})

    def write_failure(self, why: str) -> None:
        write_json(self / "failure.json", {"why": why, "at": time.time()})

    def set_aside(self) -> list[Path]:
        """Rename damaged files so that the run can be computed again; nothing is deleted."""
        moved = []
        readers = {
            "config.json": self.config_fits,
            "result.json": self.result,  # after config.json, which it goes with
            "job.json": self.job,
            "failure.json": self.failure,
            "progress.json": self.progress,
        }
        for name, read in readers.items():
            try:
                read()
            except Damaged:
                stamp = time.strftime("%Y%m%d-%H%M%S")
                target = self / f"{name}.damaged-{stamp}"
                (self / name).replace(target)
                moved.append(target)
        return moved

    def standing(self, live: Mapping[str, State]) -> Standing:
        """The run's state; ``live`` maps the keys of jobs still at work to queued or running."""
        try:
            result = self.result()
            if result is not None:
                return Standing(state=State(result["outcome"]), result=result)
            self.config_fits()
            job, failure, progress = self.job(), self.failure(), self.progress()
        except Damaged as error:
            return Standing(state=State.DAMAGED, why=str(error))
        state = live.get(job["key"]) if job is not None else None
        if state is not None and (failure is None or failure["at"] < job["at"]):
            begun = progress is not None and progress["at"] >= job["at"]
            # The job may be at work, but on another run of its pack.
            waits = state is State.RUNNING and not begun
            return Standing(state=State.QUEUED if waits else state, progress=progress)
        if failure is not None:
            return Standing(state=State.FAILED, why=failure["why"], progress=progress)
        if job is not None:
            why = (
                f"{job['key']} ended without a result (killed, or the machine went away); "
                f"what it printed is in {job['folder']}"
            )
            return Standing(state=State.FAILED, why=why, progress=progress)
        return Standing(state=State.NEW)
