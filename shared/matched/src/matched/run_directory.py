"""Run directories: the files of a run with their writers, and the state derived from them.

config.json       the run: task, config, needs, signature (``RunDirectory.prepare``)
job.json          the job that the run was given to (``RunDirectory.write_job``)
owners/           the process that is computing the run (``lease.acquire``)
environment.json  versions, git commit and hardware of the last start (``run_execution.execute``)
log.txt           the log of all attempts, with tracebacks (``run_execution.execute``)
fingerprint.json  hashes of the initial non-norm weights and of the first batches (the task)
metrics.jsonl     a line per logged step and per evaluation; the same for identical runs (the task)
performance.jsonl a line per logged step with time, throughput and peak GPU memory (the task)
checkpoints/      the last two (the task)
progress.json     how far the run is (``task.write_progress``)
failure.json      why the last attempt failed (``RunDirectory.write_failure``)
result.json       exists if and only if the run has finished (``RunDirectory.write_result``)
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from matched import lease
from matched.files import DamagedFileError, read_json, write_json
from matched.run import Run
from matched.status import (
    JOB_KEYS,
    Failure,
    FailureKind,
    JobId,
    JobRecord,
    JobStatus,
    RunStatus,
    State,
)
from matched.task import fault_of_details, is_metric_value

OVER = JobStatus(state=None)


class RunFiles:
    """The files of a run directory that can be read without knowing the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _read(self, name: str, keys: Collection[str] = ()) -> dict[str, Any] | None:
        return read_json(f"{self.path}/{name}", keys)

    def job(self) -> JobRecord | None:
        """Return job.json, or None if the run was not given to a job.

        Raises:
            DamagedFileError: if job.json is damaged.
        """
        record = self._read("job.json", JOB_KEYS)
        try:
            return None if record is None else JobRecord.from_json(record)
        except ValueError as error:
            raise DamagedFileError(f"{self / 'job.json'} is damaged: {error}") from None

    def owner(self) -> JobRecord | None:
        """Return the job that owns the directory, alive or not; None if there is no owner."""
        return lease.owner(self.path)

    def failure(self) -> Failure | None:
        """Return failure.json, or None if the last attempt has not failed.

        Raises:
            DamagedFileError: if failure.json is damaged.
        """
        record = self._read("failure.json", ("kind", "reason", "token", "at"))
        if record is None:
            return None
        try:
            kind = FailureKind(record["kind"])
        except ValueError as error:
            raise DamagedFileError(f"{self / 'failure.json'} is damaged: {error}") from None
        return Failure(
            reason=record["reason"],
            kind=kind,
            token=record["token"],
            root_run=record.get("root", ""),
        )

    def progress(self) -> dict[str, Any] | None:
        """Return progress.json, or None if the run never started.

        Raises:
            DamagedFileError: if progress.json is damaged.
        """
        return self._read("progress.json", ("step", "steps", "at"))


class RunDirectory(RunFiles):
    """The directory of ``run`` below the folder ``runs``."""

    def __init__(self, runs: Path, run: Run) -> None:
        super().__init__(runs / run.folder)
        self.run = run

    def prepare(self) -> None:
        """Create the directory and config.json unless they exist.

        Raises:
            DamagedFileError: if config.json exists and describes another run.
        """
        (self / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not self.has_config():
            config = {"signature": self.run.signature, **self.run.description}
            write_json(self / "config.json", config)

    def has_config(self) -> bool:
        """True if config.json exists.

        Raises:
            DamagedFileError: if it describes another run.
        """
        config = self._read("config.json")
        if config is None:
            return False
        if config != {"signature": self.run.signature, **self.run.description}:
            raise DamagedFileError(
                f"{self / 'config.json'} does not describe run {self.run.signature}"
            )
        return True

    def result(self) -> dict[str, Any] | None:
        """Return result.json, or None while the run has not finished.

        Raises:
            DamagedFileError: if it is truncated, belongs to another run, or has no config.json.
        """
        result = self._read("result.json", ("signature", "outcome", "metrics"))
        if result is None:
            return None
        path = f"{self.path}/result.json"
        if result["signature"] != self.run.signature:
            raise DamagedFileError(
                f"{path} is of signature {result['signature']}, not {self.run.signature}"
            )
        if result["outcome"] not in (State.DONE, State.DIVERGED):
            raise DamagedFileError(
                f"{path} has the outcome {result['outcome']!r}, not done or diverged"
            )
        metrics = result["metrics"]
        if not isinstance(metrics, dict) or not all(map(is_metric_value, metrics.values())):
            raise DamagedFileError(f"{path} has metrics that are not numbers")
        if fault := fault_of_details(result.get("details", {})):
            raise DamagedFileError(f"{path} has {fault}")
        if not self.has_config():
            raise DamagedFileError(f"{path} has no config.json next to it")
        return result

    def write_job(self, record: JobRecord) -> None:
        """Write job.json: the run was given to that job."""
        write_json(self / "job.json", record.to_json())

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        """Write result.json, which ends the run: `run_execution` calls this once."""
        (self / "failure.json").unlink(missing_ok=True)
        write_json(self / "result.json", {"signature": self.run.signature, **outcome})

    def write_failure(self, failure: Failure) -> None:
        """Write failure.json unless an earlier failure of this attempt is recorded there."""
        if (self / "failure.json").exists():
            return
        record = {
            "kind": failure.kind,
            "reason": failure.reason,
            "token": failure.token,
            "at": time.time(),
            **({"root": failure.root_run} if failure.root_run else {}),
        }
        try:
            write_json(self / "failure.json", record)
        except OSError:
            # On a full disk this makes room; progress is not needed any more.
            (self / "progress.json").unlink(missing_ok=True)
            write_json(self / "failure.json", record)

    def rename_damaged(self) -> list[Path]:
        """Rename damaged files so that the run can be computed again; nothing is deleted."""
        moved = []
        readers = {
            "config.json": self.has_config,
            "result.json": self.result,  # after config.json, without which it is damaged
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

    def finished_status(self) -> RunStatus | None:
        """Return the state of a run that has a result, even a damaged one; None without a result.

        No job can change this state.
        """
        try:
            result = self.result()
        except DamagedFileError as error:
            return RunStatus(state=State.DAMAGED, damage=str(error))
        return None if result is None else RunStatus(state=State(result["outcome"]), result=result)

    def status(self, jobs: Mapping[JobId, JobStatus]) -> RunStatus:
        """Return the run's state, given the status of the jobs that may compute it."""
        finished = self.finished_status()
        if finished is not None:
            return finished
        try:
            self.has_config()
            record, failure, progress = self.job(), self.failure(), self.progress()
        except DamagedFileError as error:
            return RunStatus(state=State.DAMAGED, damage=str(error))
        started = progress is not None
        owner = self.owner()
        if owner is not None and (status := jobs.get(owner.job, OVER)).state is not None:
            return RunStatus(
                state=status.state,
                progress=progress,
                job=owner.job,
                job_status=status,
                started=started,
            )
        if record is None:
            if failure is None:
                return RunStatus(state=State.NEW, started=started)
            return RunStatus(
                state=State.FAILED, failure=failure, progress=progress, started=started
            )
        status = jobs.get(record.job, OVER)
        failed_here = failure is not None and failure.token == record.token
        if status.state is not None and not failed_here:
            # The job may be running, but it is computing another of its runs.
            state, failure = State.QUEUED, None
        else:
            state, failure = State.FAILED, failure or _ended(record, status)
        return RunStatus(
            state=state,
            failure=failure,
            progress=progress,
            job=record.job,
            job_status=status,
            started=started,
        )


def _ended(record: JobRecord, status: JobStatus) -> Failure:
    """Return why a job is over that has left neither a result nor a failure."""
    if record.cancelled:
        return Failure(kind=FailureKind.CANCELLED, reason=f"cancelled by {record.cancelled}")
    detail = status.detail or "killed, or the machine went away"
    return Failure(
        kind=FailureKind.ENDED,
        reason=f"{record.job.describe()} ended without a result ({detail}); "
        f"what it printed is in {record.folder}",
    )


class WatchedRunDirectory(RunDirectory):
    """A run directory that is read again and again: a file is parsed only when it was replaced."""

    def __init__(self, runs: Path, run: Run) -> None:
        super().__init__(runs, run)
        self._parsed: dict[str, tuple[tuple[int, ...], dict[str, Any] | None]] = {}

    def _read(self, name: str, keys: Collection[str] = ()) -> dict[str, Any] | None:
        version = _version(f"{self.path}/{name}")
        if version is None:
            return None
        if self._parsed.get(name, (None,))[0] != version:
            # The version was taken first: a file that is replaced meanwhile is parsed once more.
            self._parsed[name] = version, super()._read(name, keys)
        return self._parsed[name][1]


def _version(path: str) -> tuple[int, ...] | None:
    """Return (inode, mtime, size), which changes when the file is replaced; None without a file.

    The file is opened because a network file system may answer ``stat`` from its cache.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = os.fstat(file)
    finally:
        os.close(file)
    return found.st_ino, found.st_mtime_ns, found.st_size
