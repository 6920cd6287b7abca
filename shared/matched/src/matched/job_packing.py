"""Which runs share a job, and which jobs wait for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matched.planning import Plan, PlannedRun
from matched.run import Run
from matched.site import Site
from matched.status import State
from matched.table import Resources


@dataclass(frozen=True, kw_only=True)
class PackedJob:
    """Runs that share one job.

    Attributes:
        resources: what each of its runs is computed with.
        after: positions of the jobs of the same submission that it has to wait for.
        behind: Slurm's ids of jobs of earlier submissions that it has to wait for.
    """

    runs: tuple[PlannedRun, ...]
    resources: Resources
    after: tuple[int, ...] = ()
    behind: tuple[str, ...] = ()


def pack_jobs(plan: Plan, cluster: str) -> list[PackedJob]:
    """Spread the missing runs over jobs, a run never before what it needs.

    On this machine there are as many jobs as workers, and runs that need each other stay in one
    job, but for what so many need that workers would have nothing to do. On Slurm there are
    ``runs_per_job`` runs of equal resources in each, and jobs wait for jobs. Runs that failed
    before come last: one that kills its process would keep the others from their turn.
    """
    if not plan.missing:
        return []
    return _on_slurm(plan) if cluster == "slurm" else _here(plan, cluster)


def _here(plan: Plan, cluster: str) -> list[PackedJob]:
    """Jobs of one size, so that they share this machine evenly: that of the largest run.

    A run's result does not depend on the number of its processes.
    """
    missing = plan.missing
    resources = max((planned.resources for planned in missing), key=lambda r: (r.gpus, r.tasks))
    workers = min(_workers(resources, plan.site, cluster), len(missing))
    bins: list[list[PlannedRun]] = [[] for _ in range(workers)]
    for chains in _turns(missing, workers):
        for i, chain in enumerate(chains):
            bins[i % len(bins)].extend(chain)
    return [PackedJob(runs=tuple(items), resources=resources) for items in bins if items]


def _turns(missing: Sequence[PlannedRun], workers: int) -> Iterator[list[list[PlannedRun]]]:
    """Chains to spread over the workers, and then others, which may wait for them in another job.

    All jobs take their runs in an order in which what is needed comes first, so that two never wait
    for each other.
    """
    chains = _chains(missing)
    needed = _needed_by_several(missing)
    if len(chains) < workers and not any(_failed(i) for i in missing if i.run in needed):
        yield _chains([planned for planned in missing if planned.run in needed])
        chains = _chains([planned for planned in missing if planned.run not in needed])
    yield sorted(chains, key=lambda chain: any(map(_failed, chain)))


def _needed_by_several(items: Sequence[PlannedRun]) -> set[Run]:
    """Runs that more than one of the items needs, and all that these need themselves."""
    times = Counter(need for planned in items for need in planned.run.needs.values())
    found: set[Run] = set()
    for planned in reversed(items):  # prerequisites come first in a plan
        if times[planned.run] > 1 or planned.run in found:
            found |= {planned.run, *planned.run.needs.values()}
    return found


def _on_slurm(plan: Plan) -> list[PackedJob]:
    at_work = _at_work(plan)
    packed: list[PackedJob] = []
    home: dict[Run, int] = {}
    for level in _levels(plan.missing):
        alike: dict[Resources, list[PlannedRun]] = {}
        for planned in sorted(level, key=_failed):
            alike.setdefault(planned.resources, []).append(planned)
        for resources, items in _portions(alike):
            needs = [need for planned in items for need in planned.run.needs.values()]
            after = {home[need] for need in needs if need in home}
            behind = {at_work[need] for need in needs if need in at_work}
            home.update({planned.run: len(packed) for planned in items})
            packed.append(
                PackedJob(
                    runs=tuple(items),
                    resources=resources,
                    after=tuple(sorted(after)),
                    behind=tuple(sorted(behind)),
                )
            )
    return packed


def _portions(
    alike: Mapping[Resources, list[PlannedRun]],
) -> Iterator[tuple[Resources, list[PlannedRun]]]:
    """The runs of each kind, as many at a time as share a job."""
    for resources, items in alike.items():
        for start in range(0, len(items), resources.runs_per_job):
            yield resources, items[start : start + resources.runs_per_job]


def job_arrays(packed: Sequence[PackedJob], largest: int) -> list[list[int]]:
    """Positions of jobs of equal resources that wait for the same jobs: each is one Slurm array.

    Args:
        largest: the most jobs that an array may have.
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for i, job in enumerate(packed):
        found.setdefault((job.resources, job.after, job.behind), []).append(i)
    return [
        wave[start : start + largest]
        for wave in found.values()
        for start in range(0, len(wave), largest)
    ]


def _failed(planned: PlannedRun) -> bool:
    return planned.status.state is State.FAILED and planned.status.started


def _at_work(plan: Plan) -> dict[Run, str]:
    """Runs that jobs of earlier submissions have, and Slurm's ids of these jobs."""
    found = {}
    for planned in plan.runs:
        if planned.status.state.live:
            record = planned.directory.job()
            if record is not None and record.job.on_slurm:
                found[planned.run] = record.job.job_id
    return found


def _workers(resources: Resources, site: Site, cluster: str) -> int:
    """How many jobs of this size this machine works on at a time."""
    if cluster == "debug":
        return 1
    if resources.gpus:
        return max(1, site.local.gpus // resources.gpus)
    return max(1, site.local.workers_or_cores() // resources.processes)


def _levels(items: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Items by the length of the longest chain of missing runs below them."""
    depth: dict[Run, int] = {}
    levels: list[list[PlannedRun]] = []
    for planned in items:  # prerequisites come first in a plan
        below = [depth[need] for need in planned.run.needs.values() if need in depth]
        depth[planned.run] = max(below, default=-1) + 1
        while len(levels) <= depth[planned.run]:
            levels.append([])
        levels[depth[planned.run]].append(planned)
    return levels


def _chains(items: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Items grouped so that no run needs one of another group; order kept."""
    group: dict[Run, list[PlannedRun]] = {}
    for planned in items:
        needed = {id(group[n]): group[n] for n in planned.run.needs.values() if n in group}
        merged = [*(member for members in needed.values() for member in members), planned]
        group.update({member.run: merged for member in merged})
    return list({id(members): members for members in group.values()}.values())
