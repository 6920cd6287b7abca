"""What a table still needs: its runs, prerequisites first, and where each of them stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matched import job_status
from matched.recipes import Recipe
from matched.run import Run
from matched.run_directory import RunDirectory
from matched.site import Site
from matched.status import RunStatus, State
from matched.table import Cell, Resources, Scale, Table, runs_with_needs


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a plan: the cells that show it, what it asks for, and where it stands.

    A run that others need may stand in no cell; its title is the first of these cells, and the
    name under which it is needed.
    """

    run: Run
    title: str
    resources: Resources
    cells: tuple[Cell, ...]
    directory: RunDirectory
    status: RunStatus


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a table at one scale, prerequisites before the runs that need them."""

    recipe: Recipe
    scale: Scale
    site: Site
    runs: tuple[PlannedRun, ...]

    @property
    def missing(self) -> list[PlannedRun]:
        """What a submission starts: neither finished, nor at work, nor damaged."""
        return [i for i in self.runs if i.status.state in (State.NEW, State.FAILED)]

    @property
    def damaged(self) -> list[PlannedRun]:
        return [planned for planned in self.runs if planned.status.state is State.DAMAGED]


def make_plan(recipe: Recipe, scale: Scale, site: Site, only: Sequence[Cell] | None = None) -> Plan:
    """The runs of a table (or of ``only`` these cells) and where each of them stands."""
    cells: dict[Run, list[Cell]] = {}
    titles: dict[Run, str] = {}
    for cell in recipe.table.cells(scale) if only is None else only:
        for place, run in runs_with_needs(cell.run, str(cell)):
            cells.setdefault(run, [])
            titles.setdefault(run, place.replace("/", " · "))
        cells[cell.run].append(cell)
    directories = {run: RunDirectory(site.runs_folder, run) for run in cells}
    others = _others(recipe.table, scale)
    seen = job_status.job_statuses(directories.values())
    items = tuple(
        PlannedRun(
            run=run,
            title=str(cells[run][0]) if cells[run] else titles[run],
            resources=others.get(run, scale.resources),
            cells=tuple(cells[run]),
            directory=directory,
            status=directory.status(seen),
        )
        for run, directory in directories.items()
    )
    return Plan(recipe=recipe, scale=scale, site=site, runs=items)


def _others(table: Table, scale: Scale) -> dict[Run, Resources]:
    """What the runs ask for that ``scale.others`` names; the first row that names one decides.

    All cells are gone through, or what a run asks for would depend on which are planned.
    """
    found: dict[Run, Resources] = {}
    for cell in table.cells(scale):
        for place, run in runs_with_needs(cell.run, cell.row):
            if place in scale.resource_overrides:
                found.setdefault(run, scale.resource_overrides[place])
    return found
