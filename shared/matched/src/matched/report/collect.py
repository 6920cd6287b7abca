"""Results of all tables: plans with their summary tables, and warnings for the reader."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from matched import extra_arms, gallery, overrides, planning, projects, recipes
from matched.aggregation import metric_of
from matched.files import DamagedFileError, read_json
from matched.gallery import NO_PICTURES
from matched.planning import Plan, PlannedRun
from matched.recipes import Recipe
from matched.report import claimed_tables, figure_list
from matched.site import Site
from matched.status import State
from matched.summary_table import SummaryTable, summary_table
from matched.table import SCALES, Scale
from matched.wording import counted, match_name

SHOWN = 5
"""Most names in a warning; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class TableResults:
    """A table at one scale with the present results of its runs.

    Attributes:
        publication: folder of the paper's recipes, such as "cvpr2025"; empty for a user's table.
        warnings: those of the summary, and on numbers and commits.
        commits: signature → commit, of the runs that have recorded one.
    """

    publication: str
    plan: Plan
    summary: SummaryTable
    warnings: tuple[str, ...]
    commits: Mapping[str, str]

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def scale(self) -> Scale:
        return self.plan.scale

    @property
    def name(self) -> str:
        """The table and its scale as file names have them: "table1.smoke"."""
        return self.recipe.results_name(self.scale)

    def count(self, *states: State) -> int:
        """Return the number of runs in these states."""
        return sum(planned.status.state in states for planned in self.plan.runs)

    @property
    def unmatched(self) -> int:
        """Number of rows and arms that are not matched with their baseline."""
        return len({(e.row, e.arm) for e in self.summary.entries if e.matched == "no"})


@dataclass(frozen=True, kw_only=True)
class Results:
    """The tables of a report.

    Attributes:
        tables: those of which at least one run was started or submitted.
        not_run: the others, as (recipe, scale).
        without_recipe: tables that a paper prints and no recipe computes: (publication, caption).
        warnings: on the runs folder as a whole.
    """

    project: Path
    tables: tuple[TableResults, ...]
    not_run: tuple[tuple[Recipe, Scale], ...]
    without_recipe: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def collect(
    project: Path,
    site: Site,
    *,
    scale: str | None = None,
    names: Sequence[str] = (),
    arms: Sequence[str] = (),
    changes: Sequence[str] = (),
    pictures: Path | None = None,
) -> Results:
    """Read the results of the given tables, or of all tables and analyses of the project.

    Args:
        scale: only this one; None for every scale.
        names: tables, or paths of recipe files, as ``recipes.load`` takes them.
        arms: extra arms (``matched.extra_arms``), for the tables that can have them.
        changes: as ``overrides.on_data``; only tables with that data are read.
        pictures: folder for copies of the runs' pictures; None copies none.

    Raises:
        ValueError: for an unknown table, scale or data, or a recipe that is refused.
        OSError: if the folder of pictures cannot be written.
    """
    if scale is not None:
        scale = match_name(scale, SCALES, "scale")
    tables, not_run, planned_signatures = [], [], set()
    known: dict[str, None] = {}
    for name in names or _all_recipes(project):
        recipe = recipes.load(name)
        for at in recipe.table.scales:
            if scale is not None and at.name != scale:
                continue
            known |= dict.fromkeys(at.on_data)
            changed = overrides.on_data(recipe, at, changes)
            if changed is None:
                continue
            plan = planning.make_plan(*extra_arms.with_possible_arms(*changed, arms), site)
            planned_signatures |= {planned.run.signature for planned in plan.runs}
            if any(planned.status.state is not State.NEW for planned in plan.runs):
                tables.append(_table_results(plan, pictures))
            else:
                not_run.append((recipe, at))
    overrides.check_data_known(changes, known)
    everything = scale is None and not names and not changes
    return Results(
        project=project,
        tables=tuple(tables),
        not_run=tuple(not_run),
        without_recipe=() if names else tuple(_without_recipe(project)),
        warnings=tuple(_unplanned(site, planned_signatures)) if everything else (),
    )


def _all_recipes(project: Path) -> list[str]:
    """Return the papers' tables, and the recipe files that only figures or claims name."""
    if not projects.has_papers(project):
        return []
    own = dict.fromkeys([*figure_list.own_recipes(project), *claimed_tables.own_recipes(project)])
    return [*recipes.available(project), *(str(project / name) for name in own)]


def _table_results(plan: Plan, pictures: Path | None) -> TableResults:
    recipe = plan.recipe
    copies = NO_PICTURES
    if pictures is not None:
        copies = gallery.copy_pictures(plan, pictures / recipe.results_name(plan.scale))
    summary = summary_table(plan, copies)
    started = [planned for planned in plan.runs if planned.status.state is not State.NEW]
    commits = {planned.run.signature: commit_of(planned) for planned in started}
    return TableResults(
        publication=recipe.path.parent.name if recipe.paper else "",
        plan=plan,
        summary=summary,
        warnings=(
            *summary.warnings,
            *_not_numbers(summary),
            *_mixed("commits", "by", _commits_of_finished(plan, commits)),
            *_mixed("hardware", "on", _hardware(plan)),
        ),
        commits=commits,
    )


def _not_numbers(summary: SummaryTable) -> list[str]:
    """Return a warning for each finished run with a metric that is not a finite number."""
    warnings = []
    for entry in summary.entries:
        for cell, planned in entry.runs:
            value = metric_of(cell, planned, entry.metric.key)
            if planned.status.state is not State.DONE or value is None:
                continue
            if not math.isfinite(value):
                warnings.append(f"Not a number: {entry.metric.key} of {cell} is {value}")
    return warnings


def commit_of(planned: PlannedRun) -> str:
    """Return the commit that a run was last started with; empty if it is not recorded.

    "+" is appended if there were uncommitted changes when the run was submitted.
    """
    try:
        environment = read_json(planned.directory / "environment.json") or {}
    except DamagedFileError:
        return ""
    submitted = environment.get("submitted") or {}
    commit = environment.get("commit") or submitted.get("commit") or ""
    return f"{commit[:10]}+" if commit and submitted.get("uncommitted") else commit[:10]


def _commits_of_finished(plan: Plan, commits: Mapping[str, str]) -> dict[str, str]:
    """Return signature → commit of the finished runs."""
    finished = (planned.run.signature for planned in plan.runs if planned.status.state.finished)
    return {signature: commits[signature] for signature in finished}


def _hardware(plan: Plan) -> dict[str, str]:
    """Return signature → hardware of the finished runs that the table shows.

    Their needs are left out: data may be prepared on other machines than networks are trained on.
    """
    results = {p.run.signature: p.status.result or {} for p in plan.runs if p.cells}
    return {signature: result.get("hardware", "") for signature, result in results.items()}


def _mixed(what: str, preposition: str, names: Mapping[str, str]) -> list[str]:
    """Return a warning if the names of the runs, empty where unknown, are not all equal."""
    found = Counter(filter(None, names.values()))
    if len(found) < 2:
        return []
    counts = [f"{name} ({counted(count, 'run')})" for name, count in found.most_common()]
    return [f"Mixed {what}: the runs were computed {preposition} {_shortened(counts)}"]


def mixed_over_tables(tables: Sequence[TableResults]) -> list[str]:
    """Return warnings for scales whose tables, taken together, have several commits or hardware."""
    warnings = []
    for scale in dict.fromkeys(table.scale.name for table in tables):
        here = [table for table in tables if table.scale.name == scale]
        commits = [_commits_of_finished(table.plan, table.commits) for table in here]
        hardware = [_hardware(table.plan) for table in here]
        found = (
            *_mixed("commits", "by", _joined(commits)),
            *_mixed("hardware", "on", _joined(hardware)),
        )
        warnings += [f"All tables of {scale} scale: {warning}" for warning in found]
    return warnings


def _joined(mappings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return all entries; tables share runs, which count once."""
    return {key: value for mapping in mappings for key, value in mapping.items()}


def _unplanned(site: Site, planned: Set[str]) -> list[str]:
    """Return a warning if the runs folder has finished runs that no table of the project names."""
    found = sorted(
        path.parent.name
        for path in site.runs_folder.glob("*/*/result.json")
        if path.parent.name not in planned
    )
    if not found:
        return []
    return [
        f"{counted(len(found), 'finished run')} of no table here: of another version of a recipe, "
        "of changed fields (--set), of an added arm (--with), or of a table of your own: "
        f"{_shortened(found)}"
    ]


def _shortened(names: Collection[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _without_recipe(project: Path) -> list[tuple[str, str]]:
    if not projects.has_papers(project):
        return []
    known = recipes.available(project)
    return [
        (f"{paper['venue']}, Table {key.removeprefix('table')}", str(table["caption"]))
        for paper in recipes.paper_numbers(project).values()
        for key, table in paper.items()
        if key.startswith("table") and f"{paper['prefix']}{key}" not in known
    ]
