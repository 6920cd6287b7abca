"""The directory of one run: what is in it, and what its files say of the run's state.

config.json       the run: task, config, needs, signature
environment.json  versions, git commit, hardware of the last start
job.json          who was asked to compute it, and when
owners/           who is computing it: see lease.py
fingerprint.json  hashes of the initial non-norm weights and of the first batches
metrics.jsonl     one line per logged step and per evaluation; the same for identical runs
performance.jsonl one line per logged step: time, throughput, peak GPU memory
progress.json     how far a living run is
checkpoints/      the last two
log.txt           what happened, tracebacks included
failure.json      why the last attempt failed
result.json       exists if and only if the run has finished
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matched import lease
from matched.files import DamagedFileError, read_json, write_json
from matched.run import Run
from matched.status import JobStatus, RunStatus, State


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
        return read_json(self / "failure.json", ("reason", "at", "token"))

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
            raise DamagedFileError(
                f"{self / 'config.json'} does not describe run {self.run.signature}"
            )
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
            raise DamagedFileError(
                f"{path} is of signature {result['signature']}, not {self.run.signature}"
            )
        if result["outcome"] not in (State.DONE, State.DIVERGED):
            raise DamagedFileError(
                f"{path} has the outcome {result['outcome']!r}, not done or diverged"
            )
        if not self.config_fits():
            raise DamagedFileError(f"{path} has no config.json beside it")
        return result

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        (self / "failure.json").unlink(missing_ok=True)
        write_json(self / "result.json", {"signature": self.run.signature, **outcome})

    def write_failure(self, reason: str, token: str) -> None:
        """Say why the run failed, in the job that bears ``token``; the first reason stays."""
        if (self / "failure.json").exists():
            return
        failure = {"reason": reason, "at": time.time(), "token": token}
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
            except DamagedFileError:
                stamp = time.strftime("%Y%m%d-%H%M%S")
                target = self / f"{name}.damaged-{stamp}"
                (self / name).replace(target)
                moved.append(target)
        return moved

    def status(self, jobs: Mapping[str, JobStatus]) -> RunStatus:
        """The run's state; ``jobs`` maps the keys of jobs to what is said of them."""
        try:
            result = self.result()
            if result is not None:
                return RunStatus(state=State(result["outcome"]), result=result)
            self.config_fits()
            job, failure, progress = self.job(), self.failure(), self.progress()
        except DamagedFileError as error:
            return RunStatus(state=State.DAMAGED, reason=str(error))
        started = progress is not None
        owner = self.owner()
        if owner is not None and (seen := jobs.get(owner.get("key", ""))) and seen.state:
            state, told = seen.state, f"{owner['key']} {seen.words}".strip()
            return RunStatus(state=state, progress=progress, job=told, started=started)
        seen = (
            jobs.get(job["key"], JobStatus(state=None))
            if job is not None
            else JobStatus(state=None)
        )
        told = f"{job['key']} {seen.words}".strip() if job is not None else ""
        failed_here = failure is not None and job is not None and failure["token"] == job["token"]
        if seen.state is not None and not failed_here:
            # The job may be running, but another run of its pack.
            return RunStatus(state=State.QUEUED, progress=progress, job=told, started=started)
        if failure is None and job is None:
            return RunStatus(state=State.NEW, started=started)
        reason = failure["reason"] if failure is not None else _end(job or {}, seen)
        return RunStatus(
            state=State.FAILED, reason=reason, progress=progress, job=told, started=started
        )


def _end(job: Mapping[str, Any], seen: JobStatus) -> str:
    """Why a job is over that has left neither a result nor a reason."""
    if "cancelled" in job:
        return f"cancelled by {job['cancelled']}"
    words = seen.words or "killed, or the machine went away"
    return f"{job['key']} ended without a result ({words}); what it printed is in {job['folder']}"
