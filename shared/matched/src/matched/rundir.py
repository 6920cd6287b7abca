"""The directory of one run: what is in it, and what its files say of the run's state.

config.json       the run: task, config, needs, signature
environment.json  versions, git commit, hardware of the last start
job.json          who was asked to compute it, and when
owners/           who is computing it: see lease.py
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

from matched import lease
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
class Seen:
    """What the machine or the cluster says of a job.

    Attributes:
        state: queued or running; None if it is over.
        words: in Slurm's own words, such as "PENDING (Resources)" or "OUT_OF_MEMORY".
    """

    state: State | None
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A run's state, with the reason in words where there is one, and its result if it has one.

    Attributes:
        job: the job that is to compute it or is computing it, and what is said of that job.
        begun: whether it was ever at work.
    """

    state: State
    why: str = ""
    result: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    job: str = ""
    begun: bool = False


class RunFiles:
    """What can be read from a run's directory without knowing the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def job(self) -> dict[str, Any] | None:
        """job.json, or None if nobody was asked to compute the run.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "job.json", ("key", "cluster", "job_id", "host", "token", "at"))

    def owner(self) -> dict[str, Any] | None:
        """Who is computing the run, or was when it was killed; None if nobody has it."""
        return lease.owner(self.path)

    def failure(self) -> dict[str, Any] | None:
        """failure.json, or None if the last attempt has not failed.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "failure.json", ("why", "at", "token"))

    def progress(self) -> dict[str, Any] | None:
        """progress.json, or None if the run never began.

        Raises:
            Damaged: if it is not whole.
        """
        return read_json(self / "progress.json", ("step", "steps", "at"))


class RunDirectory(RunFiles):
    """Reads and writes the directory of ``run`` below the folder ``runs``."""

    def __init__(self, runs: Path, run: Run) -> None:
        super().__init__(runs / run.folder)
        self.run = run

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

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        (self / "failure.json").unlink(missing_ok=True)
        write_json(self / "result.json", {"signature": self.run.signature, **outcome})

    def write_failure(self, why: str, token: str) -> None:
        """Say why the run failed, in the job that bears ``token``; the first reason stays."""
        if (self / "failure.json").exists():
            return
        failure = {"why": why, "at": time.time(), "token": token}
        try:
            write_json(self / "failure.json", failure)
        except OSError:
            # On a full disk this makes room, and what it tells is over.
            (self / "progress.json").unlink(missing_ok=True)
            write_json(self / "failure.json", failure)

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

    def standing(self, jobs: Mapping[str, Seen]) -> Standing:
        """The run's state; ``jobs`` maps the keys of jobs to what is said of them."""
        try:
            result = self.result()
            if result is not None:
                return Standing(state=State(result["outcome"]), result=result)
            self.config_fits()
            job, failure, progress = self.job(), self.failure(), self.progress()
        except Damaged as error:
            return Standing(state=State.DAMAGED, why=str(error))
        begun = progress is not None
        owner = self.owner()
        if owner is not None and (seen := jobs.get(owner.get("key", ""))) and seen.state:
            state, told = seen.state, f"{owner['key']} {seen.words}".strip()
            return Standing(state=state, progress=progress, job=told, begun=begun)
        seen = jobs.get(job["key"], Seen(state=None)) if job is not None else Seen(state=None)
        told = f"{job['key']} {seen.words}".strip() if job is not None else ""
        failed_here = failure is not None and job is not None and failure["token"] == job["token"]
        if seen.state is not None and not failed_here:
            # The job may be running, but another run of its pack.
            return Standing(state=State.QUEUED, progress=progress, job=told, begun=begun)
        if failure is None and job is None:
            return Standing(state=State.NEW, begun=begun)
        why = failure["why"] if failure is not None else _end(job or {}, seen)
        return Standing(state=State.FAILED, why=why, progress=progress, job=told, begun=begun)


def _end(job: Mapping[str, Any], seen: Seen) -> str:
    """Why a job is over that has left neither a result nor a reason."""
    if "cancelled" in job:
        return f"cancelled by {job['cancelled']}"
    words = seen.words or "killed, or the machine went away"
    return f"{job['key']} ended without a result ({words}); what it printed is in {job['folder']}"
