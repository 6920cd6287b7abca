"""Typed status of runs and jobs: states, job ids and records, failures, results of attempts."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from matched import process_identity


class State(StrEnum):
    """The state of a run, read from its directory and from the job that it was given to."""

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
class JobId:
    """A job on Slurm, or a process on a host.

    Attributes:
        cluster: "slurm", or "local" for a process.
        job_id: Slurm's id, such as "12" or "12_3", or the process id.
        host: where the process runs; empty for Slurm, which places the job itself.
        identity: of the process: see ``process_identity``. Containers may share a host name, and
            process ids are used again. Empty if it is unknown.
    """

    cluster: str
    job_id: str
    host: str = ""
    identity: str = ""

    @classmethod
    def here(cls, cluster: str, job_id: str) -> JobId:
        """Return the id of a job that was started from this host.

        Args:
            cluster: as submitit names it; everything but "slurm" is a process on this host.
        """
        if cluster == "slurm":
            return cls(cluster="slurm", job_id=job_id)
        identity = process_identity.identity(int(job_id))
        return cls(cluster="local", job_id=job_id, host=socket.gethostname(), identity=identity)

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Parse the output of ``__str__``.

        Raises:
            ValueError: if ``text`` is not such an id.
        """
        cluster, *rest = text.split(":")
        if all(rest) and (cluster, len(rest)) == ("slurm", 1):
            return cls(cluster=cluster, job_id=rest[0])
        if all(rest) and cluster == "local" and len(rest) in (2, 3):
            return cls(cluster=cluster, host=rest[0], job_id=rest[1], identity="".join(rest[2:]))
        raise ValueError(f"{text!r} is not a job id; expected slurm:ID or local:HOST:PID:IDENTITY")

    def __str__(self) -> str:
        """Return the form in files: "slurm:12_3" or "local:n2:4711:IDENTITY"."""
        parts = (self.cluster, self.host, self.job_id, self.identity)
        return ":".join(part for part in parts if part)

    @property
    def on_slurm(self) -> bool:
        return self.cluster == "slurm"

    @property
    def is_running(self) -> bool | None:
        """Whether the process of a job runs; None for Slurm, or if it cannot be seen from here."""
        if self.on_slurm or self.host != socket.gethostname():
            return None
        return process_identity.is_running(int(self.job_id), self.identity)

    def describe(self) -> str:
        """Return the form for people: "slurm job 12_3" or "process 4711 on host n2"."""
        if self.on_slurm:
            return f"slurm job {self.job_id}"
        return f"process {self.job_id} on host {self.host}"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job and its submission, as job.json and the files of owners record them.

    Attributes:
        user: number of the user who submitted the job.
        token: names the submission; a failure with the same token happened in this job.
        folder: where the output of the job is.
        at: when the job was given the run, in seconds since 1970.
        submission: name of the record of the submitted code; empty if there is none.
        cancelled: who cancelled the job and when; empty if nobody did.
    """

    job: JobId
    user: str
    token: str
    folder: str
    at: float
    submission: str = ""
    cancelled: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object without its empty fields."""
        record = {key: value for key, value in asdict(self).items() if value != ""}
        return {**record, "job": str(self.job), "folder": self.folder}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> JobRecord:
        """Return the record of a JSON object, which may have other keys too.

        Raises:
            ValueError: if the job's id is not one.
        """
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        return cls(**{**known, "job": JobId.parse(record["job"])})


JOB_KEYS = ("job", "user", "token", "folder", "at")
"""Keys that the JSON object of a ``JobRecord`` always has."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What the operating system or Slurm reports about a job.

    Attributes:
        state: queued or running; None if the job is over.
        detail: Slurm's state and reason, such as "PENDING (Resources)" or "OUT_OF_MEMORY", or why a
            process is considered over.
    """

    state: State | None
    detail: str = ""


class FailureKind(StrEnum):
    """Why a run has no result.

    ERROR: its task, or the preparation of its directory, raised an error.
    NO_PROGRESS: a whole job was too short to save anything.
    BLOCKED: a run that it needs has no result.
    CANCELLED: a user cancelled its job.
    ENDED: its job ended without a result and without recording a failure.
    """

    ERROR = "error"
    NO_PROGRESS = "no_progress"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why the last attempt at a run failed; failure.json holds it.

    Attributes:
        reason: one line for people.
        token: of the submission in which the run failed; empty if no job recorded the failure.
        root_run: signature of the failed run that blocks this one, directly or through other needs;
            empty for other kinds.
    """

    reason: str
    kind: FailureKind = FailureKind.ERROR
    token: str = ""
    root_run: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run, its result if it has one, and what went wrong if something did.

    Attributes:
        failure: of a failed run.
        damage: what is wrong with the files of a damaged run.
        job: the job that is to compute the run, is computing it, or was.
        job_status: of ``job``.
        started: True if an attempt at the run ever started.
    """

    state: State
    failure: Failure | None = None
    damage: str = ""
    result: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    job: JobId | None = None
    job_status: JobStatus = JobStatus(state=None)
    started: bool = False

    @property
    def reason(self) -> str:
        """What went wrong, in one line; empty if nothing did."""
        return self.failure.reason if self.failure is not None else self.damage


@dataclass(frozen=True, kw_only=True)
class ExecutionResult:
    """How the attempt of one process to compute a run ended.

    Attributes:
        state: done, diverged, failed or damaged; running if another process owns the run.
        reason: why there is no result, in one line.
    """

    state: State
    reason: str = ""

    def __str__(self) -> str:
        return self.reason or str(self.state)
