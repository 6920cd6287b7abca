"""Cancellation of queued and running runs."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from matched import job_status
from matched.planning import Plan, PlannedRun
from matched.status import JobId, JobRecord


def cancel_runs(plan: Plan, selected: Sequence[PlannedRun]) -> dict[JobId, list[PlannedRun]]:
    """Cancel the jobs of the selected runs; they save a checkpoint where they can.

    Returns:
        Cancelled job → its unfinished runs.

    Raises:
        ValueError: if a job has runs that are not selected, or cannot be cancelled from this host.
    """
    live: dict[JobId, tuple[JobRecord, list[PlannedRun]]] = {}
    for planned in plan.runs:
        if planned.status.state.live:
            record = planned.directory.owner() or planned.directory.job()
            assert record is not None, "a live run has an owner or was given to a job"
            live.setdefault(record.job, (record, []))[1].append(planned)
    chosen = {job: entry for job, entry in live.items() if any(i in selected for i in entry[1])}
    for job, (_, planned_runs) in chosen.items():
        if others := [planned.title for planned in planned_runs if planned not in selected]:
            raise ValueError(
                f"{job.describe()} computes other runs too ({'; '.join(others)}); a job can only "
                "be cancelled as a whole: do not pass --row, --arm or --seed"
            )
    records = [record for record, _ in chosen.values()]
    _cancel(records, [i for _, runs in chosen.values() for i in runs])
    return {job: planned_runs for job, (_, planned_runs) in chosen.items()}


def _cancel(jobs: Sequence[JobRecord], planned_runs: Sequence[PlannedRun]) -> None:
    """Record in every job.json who cancels the job, then cancel it; undo that if it is refused."""
    by = f"{_user_name()}, {time.strftime('%Y-%m-%d %H:%M')}"
    directories = [planned.directory for planned in planned_runs]
    records = [(where, record) for where in directories if (record := where.job()) is not None]
    for directory, record in records:
        directory.write_job(replace(record, cancelled=by))
    try:
        job_status.cancel(jobs)
    except ValueError:
        for directory, record in records:
            directory.write_job(record)
        raise


def _user_name() -> str:
    """Return the user's name, or the user's number if it has no name, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
