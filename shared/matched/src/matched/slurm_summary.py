"""Summary of what a plan requests from Slurm: distinct requests, hours by stage, and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matched.job_packing import PackedJob, job_arrays
from matched.planning import Plan
from matched.site import Slurm
from matched.slurm_request import job_minutes, job_name, sbatch_lines, stage_name


@dataclass(frozen=True, kw_only=True)
class Request:
    """One distinct request, and everything that is submitted with it.

    Attributes:
        lines: the #SBATCH lines.
        arrays: each submission, an array or a single job, as positions of its jobs.
    """

    name: str
    lines: tuple[str, ...]
    arrays: tuple[tuple[int, ...], ...]

    @property
    def jobs(self) -> list[int]:
        return [i for array in self.arrays for i in array]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The jobs of a plan that call the same tasks.

    Attributes:
        gpu_hours, core_hours: expected time of all runs, times their GPUs or cores.
    """

    name: str
    runs: int
    jobs: int
    gpu_hours: float
    core_hours: float


def distinct_requests(plan: Plan, packed: Sequence[PackedJob]) -> list[Request]:
    """Return the requests of a plan, equal ones once, in the order of their submission."""
    arrays: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for array in job_arrays(packed, plan.site.slurm.max_array):
        arrays.setdefault(tuple(sbatch_lines(plan, packed, array)), []).append(tuple(array))
    return [
        Request(
            name=job_name(plan, [packed[i] for i in equal[0]]), lines=lines, arrays=tuple(equal)
        )
        for lines, equal in arrays.items()
    ]


def stages(packed: Sequence[PackedJob]) -> list[Stage]:
    """Return the stages of a plan, in the order of their first jobs."""
    groups: dict[str, list[PackedJob]] = {}
    for job in packed:
        groups.setdefault(stage_name([job]), []).append(job)
    return [
        Stage(
            name=name,
            runs=sum(len(job.runs) for job in jobs),
            jobs=len(jobs),
            gpu_hours=sum(_hours(job) * job.resources.gpus for job in jobs),
            core_hours=sum(
                _hours(job) * job.resources.world_size * job.resources.cpus for job in jobs
            ),
        )
        for name, jobs in groups.items()
    ]


def total(parts: Sequence[Stage]) -> Stage:
    """Return the sum of all stages, named "table"."""
    return Stage(
        name="table",
        runs=sum(stage.runs for stage in parts),
        jobs=sum(stage.jobs for stage in parts),
        gpu_hours=sum(stage.gpu_hours for stage in parts),
        core_hours=sum(stage.core_hours for stage in parts),
    )


def _hours(job: PackedJob) -> float:
    """Return the expected time of all runs of a job."""
    return job.resources.minutes * len(job.runs) / 60


def limit_notes(plan: Plan, packed: Sequence[PackedJob]) -> list[str]:
    """Return a sentence for every limit of the site that changes how the jobs run."""
    slurm = plan.site.slurm
    notes = []
    by_starts: dict[tuple[str, float], int] = {}
    for job in packed:
        if job_minutes(job.resources, len(job.runs)) > slurm.max_hours * 60:
            key = stage_name([job]), _hours(job)
            by_starts[key] = by_starts.get(key, 0) + 1
    for (name, hours), count in by_starts.items():
        each = "each is" if count > 1 else "it is"
        notes.append(
            f"max_hours = {slurm.max_hours}: {_plural(count, 'job')} of stage {name} "
            f"{'take' if count > 1 else 'takes'} {hours:g} h; {each} requeued at the limit and "
            f"resumes, in {math.ceil(hours / slurm.max_hours)} starts"
        )
    arrays = job_arrays(packed, slurm.max_array)
    longest = max(map(len, arrays), default=0)
    if longest > slurm.parallel:
        notes.append(
            f"parallel = {slurm.parallel}: of an array of {longest} jobs {slurm.parallel} run at "
            "a time"
        )
    undivided = job_arrays(packed, len(packed))
    if len(arrays) > len(undivided):
        notes.append(
            f"max_array = {slurm.max_array}: {_plural(len(undivided), 'array')} of jobs "
            f"{'are' if len(undivided) > 1 else 'is'} submitted as {len(arrays)}"
        )
    return notes


def hours_to_last_job(packed: Sequence[PackedJob], slurm: Slurm) -> float:
    """Return the expected hours until the last job ends, if no job waits in the queue."""
    ends: dict[int, float] = {}
    # An array comes after the arrays that its jobs depend on.
    for array in job_arrays(packed, slurm.max_array):
        for position, i in enumerate(array):
            start = max((ends[needed] for needed in packed[i].after), default=0.0)
            wave = position // slurm.parallel
            ends[i] = start + (wave + 1) * _hours(packed[i])
    return max(ends.values(), default=0.0)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
