"""Cancellation of queued and running runs."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from typing import Any

from matched import job_status
from matched.planning import Plan, PlannedRun


def cancel_runs(plan: Plan, selected: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """Cancel the jobs of the selected runs; they save a checkpoint where they can.

    Returns:
        Key of each cancelled job → its unfinished runs.

    Raises:
        ValueError: if a job has runs that are not selected, or cannot be cancelled from this host.
    """
    live: dict[str, tuple[dict[str, Any], list[PlannedRun]]] = {}
    for planned in plan.runs:
        if planned.status.state.live:
            job = planned.directory.owner() or planned.directory.job()
            assert job is not None, "a live run has an owner or was given to a job"
            live.setdefault(job["key"], (job, []))[1].append(planned)
    chosen = {key: entry for key, entry in live.items() if any(i in selected for i in entry[1])}
    for key, (_, planned_runs) in chosen.items():
        if others := [planned.title for planned in planned_runs if planned not in selected]:
            raise ValueError(
                f"{key} computes other runs too ({'; '.join(others)}); a job can only be "
                "cancelled as a whole: name no row, arm or seed"
            )
    _cancel([job for job, _ in chosen.values()], [i for _, runs in chosen.values() for i in runs])
    return {key: planned_runs for key, (_, planned_runs) in chosen.items()}


def _cancel(jobs: Sequence[dict[str, Any]], planned_runs: Sequence[PlannedRun]) -> None:
    """Record in every job.json who cancels the job, then cancel it; undo that if it is refused."""
    by = f"{getpass.getuser()}, {time.strftime('%Y-%m-%d %H:%M')}"
    directories = [planned.directory for planned in planned_runs]
    records = [(where, job) for where in directories if (job := where.job()) is not None]
    for directory, job in records:
        job_status.write_job_file(directory, job, cancelled=by)
    try:
        job_status.cancel(jobs)
    except ValueError:
        for directory, job in records:
            job_status.write_job_file(directory, job)
        raise
