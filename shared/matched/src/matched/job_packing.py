"""Packing of runs into jobs, and the dependencies between these jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matched import machine
from matched.planning import Plan, PlannedRun
from matched.run import Run
from matched.site import Site
from matched.status import State
from matched.table import Resources
from matched.wording import counted

LONG_HOURS = 24
"""A submission says how long it takes if its runs on this machine take longer."""


@dataclass(frozen=True, kw_only=True)
class PackedJob:
    """The runs of one job, and the jobs that have to end before it starts.

    Attributes:
        resources: of each run.
        after: positions of jobs of the same submission.
        after_ids: Slurm ids of jobs of earlier submissions.
    """

    runs: tuple[PlannedRun, ...]
    resources: Resources
    after: tuple[int, ...] = ()
    after_ids: tuple[str, ...] = ()


def pack_jobs(plan: Plan, cluster: str) -> list[PackedJob]:
    """Spread the missing runs over jobs; no run comes before one that it needs.

    On this machine there is one job per worker. Runs that need each other share a job, unless that
    would leave workers idle. On Slurm each job has up to ``runs_per_job`` runs of equal resources,
    and depends on the jobs of the runs that it needs. Runs that failed before come last, because
    one that kills its process again would prevent the runs after it.
    """
    if not plan.missing:
        return []
    return _pack_for_slurm(plan) if cluster == "slurm" else _pack_for_workers(plan, cluster)


def _pack_for_workers(plan: Plan, cluster: str) -> list[PackedJob]:
    """Pack jobs of equal resources, those of the largest run, so that they divide this machine.

    A run's result does not depend on the number of its processes.
    """
    missing = plan.missing
    resources = max(
        (planned.resources for planned in missing), key=lambda r: (r.gpus, r.world_size)
    )
    num_jobs = min(_num_workers(resources, plan.site, cluster), len(missing))
    jobs: list[list[PlannedRun]] = [[] for _ in range(num_jobs)]
    for groups in _rounds(missing, num_jobs):
        for i, group in enumerate(groups):
            jobs[i % num_jobs].extend(group)
    return [PackedJob(runs=tuple(runs), resources=resources) for runs in jobs if runs]


def _rounds(missing: Sequence[PlannedRun], num_jobs: int) -> Iterator[list[list[PlannedRun]]]:
    """Yield rounds of groups to spread over the jobs: shared needs of shared needs come first.

    Runs of a round may wait for runs of earlier rounds in another job. Two jobs never wait for each
    other, because every job computes its runs in an order in which needed runs come first.
    """
    groups = _connected_groups(missing)
    shared = _shared_needs(missing)
    first = [planned for planned in missing if planned.run in shared]
    if first and len(groups) < num_jobs and not any(map(_has_failed, first)):
        yield from _rounds(first, num_jobs)
        groups = _connected_groups([planned for planned in missing if planned.run not in shared])
    yield sorted(groups, key=lambda group: any(map(_has_failed, group)))


def _shared_needs(planned_runs: Sequence[PlannedRun]) -> set[Run]:
    """Return the runs that more than one of the given runs needs, and everything these need."""
    counts = Counter(need for planned in planned_runs for need in planned.run.needs.values())
    shared: set[Run] = set()
    for planned in reversed(planned_runs):  # prerequisites come first in a plan
        if counts[planned.run] > 1 or planned.run in shared:
            shared |= {planned.run, *planned.run.needs.values()}
    return shared


def _pack_for_slurm(plan: Plan) -> list[PackedJob]:
    earlier_ids = _ids_of_live_slurm_jobs(plan)
    packed: list[PackedJob] = []
    position: dict[Run, int] = {}
    for level in _levels(plan.missing):
        by_resources: dict[Resources, list[PlannedRun]] = {}
        for planned in sorted(level, key=_has_failed):
            by_resources.setdefault(planned.resources, []).append(planned)
        for resources, runs in _split_by_runs_per_job(by_resources):
            needs = [need for planned in runs for need in planned.run.needs.values()]
            after = {position[need] for need in needs if need in position}
            after_ids = {earlier_ids[need] for need in needs if need in earlier_ids}
            position.update({planned.run: len(packed) for planned in runs})
            packed.append(
                PackedJob(
                    runs=tuple(runs),
                    resources=resources,
                    after=tuple(sorted(after)),
                    after_ids=tuple(sorted(after_ids)),
                )
            )
    return packed


def _split_by_runs_per_job(
    by_resources: Mapping[Resources, list[PlannedRun]],
) -> Iterator[tuple[Resources, list[PlannedRun]]]:
    for resources, runs in by_resources.items():
        for start in range(0, len(runs), resources.runs_per_job):
            yield resources, runs[start : start + resources.runs_per_job]


def job_arrays(packed: Sequence[PackedJob], max_size: int) -> list[list[int]]:
    """Group jobs into Slurm arrays: lists of positions in ``packed``.

    The jobs of an array have equal resources and dependencies.

    Args:
        max_size: the most jobs that an array may have.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, job in enumerate(packed):
        groups.setdefault((job.resources, job.after, job.after_ids), []).append(i)
    return [
        group[start : start + max_size]
        for group in groups.values()
        for start in range(0, len(group), max_size)
    ]


def _has_failed(planned: PlannedRun) -> bool:
    return planned.status.state is State.FAILED and planned.status.started


def _ids_of_live_slurm_jobs(plan: Plan) -> dict[Run, str]:
    """Map the runs that jobs of earlier submissions have to the Slurm ids of these jobs."""
    ids = {}
    for planned in plan.runs:
        if planned.status.state.live:
            record = planned.directory.job()
            if record is not None and record.job.on_slurm:
                ids[planned.run] = record.job.job_id
    return ids


def _num_workers(resources: Resources, site: Site, cluster: str) -> int:
    """Return how many jobs of these resources this machine computes at a time."""
    if cluster == "debug":
        return 1
    workers = _num_places(resources, site)
    fitting = _num_fitting(resources)
    if site.local.workers or fitting is None or fitting >= workers:  # the user's number is kept
        return workers
    return max(1, fitting)


def _num_places(resources: Resources, site: Site) -> int:
    """Return for how many jobs of these resources this machine has GPUs or cores, at least 1."""
    if resources.gpus:
        return max(1, len(site.local.usable_gpus()) // resources.gpus)
    return max(1, site.local.worker_count() // resources.processes)


def _num_fitting(resources: Resources) -> int | None:
    """Return how many jobs fit into the memory of this container; None if that has no limit."""
    limit = machine.memory_limit()
    if limit is None:
        return None
    return limit // (resources.memory_gb * resources.world_size << 30)


def memory_note(plan: Plan, packed: Sequence[PackedJob], cluster: str) -> str:
    """Return one line if memory allows fewer local jobs at a time than cores or GPUs, else ""."""
    if cluster != "local" or not packed or plan.site.local.workers:
        return ""
    resources = packed[0].resources
    fitting = _num_fitting(resources)
    workers = min(_num_places(resources, plan.site), len(plan.missing))
    if fitting is None or fitting >= workers:
        return ""
    asked, limit = resources.memory_gb * resources.world_size, machine.memory_limit() or 0
    effect = "lifts this limit" if resources.gpus else "sets another number"
    return (
        f"{max(1, fitting)} instead of {workers} runs at a time: each asks for {asked} GB and this "
        f"container has {limit / (1 << 30):.1f} GB; `workers` under [local] in {plan.site.file} "
        f"{effect}"
    )


def hours_here(packed: Sequence[PackedJob]) -> float:
    """Return the expected hours until all jobs of this machine, which start at once, have ended."""
    minutes = (sum(planned.resources.minutes for planned in job.runs) for job in packed)
    return max(minutes, default=0) / 60


def short_runs_note(*plans: Plan) -> str:
    """Return a remark if expected hours have runs of one minute, which is the least; else ""."""
    short = any(planned.resources.minutes == 1 for plan in plans for planned in plan.missing)
    return "; runs of seconds count as a minute" if short else ""


def time_note(plan: Plan, packed: Sequence[PackedJob], cluster: str) -> str:
    """Return one line if this machine needs more than ``LONG_HOURS`` for its jobs, else ""."""
    hours = hours_here(packed)
    if cluster == "slurm" or hours <= LONG_HOURS:
        return ""
    return (
        f"{plan.recipe.name} at {plan.scale.name} scale: {counted(len(plan.missing), 'run')}, "
        f"{len(packed)} at a time, take about {hours:,.0f} h here; `matched cancel "
        f"{plan.recipe.arguments(plan.scale)}` stops them, and finished runs are kept. Faster are "
        f"`gpus` or `workers` under [local] in {plan.site.file}, and --cluster slurm"
    )


def _levels(planned_runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Group runs by the length of their longest chain of missing prerequisites."""
    depth: dict[Run, int] = {}
    levels: list[list[PlannedRun]] = []
    for planned in planned_runs:  # prerequisites come first in a plan
        needed = [depth[need] for need in planned.run.needs.values() if need in depth]
        depth[planned.run] = max(needed, default=-1) + 1
        while len(levels) <= depth[planned.run]:
            levels.append([])
        levels[depth[planned.run]].append(planned)
    return levels


def _connected_groups(planned_runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Group runs so that none needs a run of another group; keep their order."""
    group_of: dict[Run, list[PlannedRun]] = {}
    for planned in planned_runs:
        needed = [group_of[need] for need in planned.run.needs.values() if need in group_of]
        distinct = {id(group): group for group in needed}.values()
        merged = [*(member for group in distinct for member in group), planned]
        group_of.update({member.run: merged for member in merged})
    return list({id(group): group for group in group_of.values()}.values())
