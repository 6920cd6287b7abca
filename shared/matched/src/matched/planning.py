"""Plans: all runs of a table at one scale, prerequisites first, with the state of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from matched import job_status
from matched.job_status import SlurmQueue
from matched.recipes import Recipe
from matched.run import Run
from matched.run_directory import RunDirectory, WatchedRunDirectory
from matched.site import Site
from matched.status import RunStatus, State
from matched.table import Cell, Resources, Scale, Table, runs_with_needs


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        title: of its first cell. A run that only other runs need has no cell; it is named after
            the first cell that needs it, followed by the name under which it is needed.
        resources: what the run asks for.
        cells: the table cells that show it.
    """

    run: Run
    title: str
    resources: Resources
    cells: tuple[Cell, ...]
    directory: RunDirectory
    status: RunStatus


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a table at one scale, each after the runs that it needs."""

    recipe: Recipe
    scale: Scale
    site: Site
    runs: tuple[PlannedRun, ...]

    @property
    def missing(self) -> list[PlannedRun]:
        """The runs that a submission starts: not finished, queued, running or damaged."""
        return [i for i in self.runs if i.status.state in (State.NEW, State.FAILED)]

    @property
    def damaged(self) -> list[PlannedRun]:
        return [planned for planned in self.runs if planned.status.state is State.DAMAGED]

    @cached_property
    def unfinished(self) -> tuple[PlannedRun, ...]:
        return tuple(planned for planned in self.runs if not planned.status.state.finished)

    @cached_property
    def by_run(self) -> dict[Run, PlannedRun]:
        return {planned.run: planned for planned in self.runs}

    def on_cluster(self, cluster: str) -> Plan:
        """Return the plan with resources that the cluster has.

        On this machine, if site.toml gives it no GPUs, runs that a CPU core can compute do not ask
        for any.
        """
        if cluster == "slurm" or self.site.local.usable_gpus():
            return self
        runs = (replace(one, resources=one.resources.without_gpus()) for one in self.runs)
        return replace(self, runs=tuple(runs))

    def refreshed(self, queue: SlurmQueue | None = None) -> Plan:
        """Return the plan with the states of its unfinished runs read again.

        The recipe, site.toml and finished runs are not read. A run whose state has not changed
        since the last refresh is the same object in the new plan.

        Args:
            queue: keeps Slurm's answer from one call to the next; None asks Slurm each time.

        Raises:
            ValueError: if Slurm cannot be asked.
        """
        watched = [_watched(planned, self.site) for planned in self.unfinished]
        jobs = job_status.job_statuses(
            [planned.directory for planned in watched],
            queue,
            finished=(p.directory for p in self.runs if p.status.state.finished),
        )
        fresh = {
            id(before): _with_status(planned, planned.directory.status(jobs))
            for before, planned in zip(self.unfinished, watched, strict=True)
        }
        return replace(self, runs=tuple(fresh.get(id(planned), planned) for planned in self.runs))


def _watched(planned: PlannedRun, site: Site) -> PlannedRun:
    if isinstance(planned.directory, WatchedRunDirectory):
        return planned
    return replace(planned, directory=WatchedRunDirectory(site.runs_folder, planned.run))


def _with_status(planned: PlannedRun, status: RunStatus) -> PlannedRun:
    return planned if status == planned.status else replace(planned, status=status)


def make_plan(recipe: Recipe, scale: Scale, site: Site, only: Sequence[Cell] | None = None) -> Plan:
    """Return the runs of a table, or of ``only`` these cells, with the state of each."""
    cells: dict[Run, list[Cell]] = {}
    titles: dict[Run, str] = {}
    for cell in recipe.table.cells(scale) if only is None else only:
        for place, run in runs_with_needs(cell.run, ""):
            cells.setdefault(run, [])
            titles.setdefault(run, f"{cell}{place.replace('/', ' · ')}")
        cells[cell.run].append(cell)
    runs_folder = site.runs_folder
    directories = {run: RunDirectory(runs_folder, run) for run in cells}
    overrides = _resource_overrides(recipe.table, scale)
    statuses = _statuses(directories.values())
    runs = tuple(
        PlannedRun(
            run=run,
            title=str(cells[run][0]) if cells[run] else titles[run],
            resources=overrides.get(run, scale.resources),
            cells=tuple(cells[run]),
            directory=directory,
            status=status,
        )
        for (run, directory), status in zip(directories.items(), statuses, strict=True)
    )
    return Plan(recipe=recipe, scale=scale, site=site, runs=runs)


def _statuses(directories: Collection[RunDirectory]) -> list[RunStatus]:
    """Return the status of each run; the files of a finished run are read once.

    Jobs are asked before the files of unfinished runs are read: a run that ends in between is then
    finished, and not the run of a job that is over.
    """
    finished = [directory.finished_status() for directory in directories]
    both = list(zip(directories, finished, strict=True))
    jobs = job_status.job_statuses(
        [directory for directory, status in both if status is None],
        finished=(directory for directory, status in both if status is not None),
    )
    return [directory.status(jobs) if status is None else status for directory, status in both]


def _resource_overrides(table: Table, scale: Scale) -> dict[Run, Resources]:
    """Map the runs named in ``scale.resource_overrides`` to their resources; the first row wins.

    The runs of a search with its own ``minutes`` are included. All cells are considered: otherwise
    a run's resources would depend on which cells are planned.
    """
    found: dict[Run, Resources] = {}
    for cell in table.cells(scale):
        if scale.resource_overrides:
            for place, run in runs_with_needs(cell.run, cell.row):
                if place in scale.resource_overrides:
                    found.setdefault(run, scale.resource_overrides[place])
        search = scale.search(cell.row, cell.arm) if cell.value else None
        if search is not None and search.expected_minutes:
            resources = found.get(cell.run, scale.resources)
            found[cell.run] = replace(resources, **search.expected_minutes)
    return found
