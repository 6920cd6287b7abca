"""Status of runs and jobs as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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
class JobStatus:
    """What the machine or the cluster says of a job.

    Attributes:
        state: queued or running; None if it is over.
        words: in Slurm's own words, such as "PENDING (Resources)" or "OUT_OF_MEMORY".
    """

    state: State | None
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run's state, with the reason in words where there is one, and its result if it has one.

    Attributes:
        job: the job that is to compute it or is computing it, and what is said of that job.
        begun: whether it was ever at work.
    """

    state: State
    reason: str = ""
    result: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    job: str = ""
    started: bool = False
