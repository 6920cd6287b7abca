"""Layout of searches: the grid of the best values, and the list of all values that were tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matched.entries import Entry, best_marks, format_finished_count, shown_arms
from matched.formatting import MISSING, format_cell
from matched.planning import Plan
from matched.search_summary import SearchSummary, TrialSummary
from matched.status import State

Line = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TriedValues:
    """All trials of a table's searches.

    Attributes:
        header, rows: one row of text for each search.
        records: one for each trial, as plain values for CSV.
    """

    header: Line
    rows: tuple[Line, ...]
    records: tuple[Mapping[str, Any], ...]


def is_grid(plan: Plan) -> bool:
    """True if every cell searches for something that is a metric, as the tables of the best α0."""
    keys = {metric.key for metric in plan.recipe.metrics(plan.scale)}
    arms = {(cell.row, cell.arm) for cell in plan.recipe.table.cells(plan.scale)}
    searches = [plan.scale.search(row, arm) for row, arm in arms]
    return bool(searches) and all(
        search is not None and keys >= set(search.parameters) for search in searches
    )


def grid(plan: Plan, entries: Sequence[Sequence[Entry]]) -> tuple[Line, list[Line]]:
    """Return header and rows of a grid: the best values of each row, and those of the paper.

    Args:
        entries: one list for each row and metric. The metrics that are searched for share a cell,
            such as "0.8/0.2".
    """
    recipe, scale = plan.recipe, plan.scale
    found: dict[str, list[Sequence[Entry]]] = {}
    for of_metric in entries:
        search = next(entry.search for entry in of_metric if entry.search)
        if of_metric[0].metric.key in search.search.parameters:
            found.setdefault(of_metric[0].row, []).append(of_metric)
    rows: list[Line] = []
    for row, of_row in found.items():
        cells = list(zip(*of_row, strict=True))
        ours = [_best_values(cell) for cell in cells]
        own = [cell[0] for cell in cells if cell[0].search]
        mark = _common_mark([entry.matched for entry in own])
        rows.append((recipe.label(row, scale), "ours", *ours, format_finished_count(own), mark))
        if recipe.paper:
            rows.append((recipe.label(row), "paper", *map(_printed_values, cells), "", ""))
    labels = " / ".join(of_metric[0].metric.label for of_metric in next(iter(found.values())))
    if recipe.paper and recipe.paper.axes:
        labels += f" by {recipe.paper.axes['rows']} and {recipe.paper.axes['arms']}"
    names = [recipe.arm_label(arm, scale) for arm in shown_arms(plan)]
    return (labels, "source", *names, "runs", "matched"), rows


def _best_values(cell: Sequence[Entry]) -> str:
    search = cell[0].search
    if search is None or search.best is None:
        return format_cell(cell[0].metric, cell[0].ours)
    return "/".join(f"{entry.ours.found:g}" for entry in cell) + best_marks(search)


def _printed_values(cell: Sequence[Entry]) -> str:
    printed = [entry.printed.get(entry.metric.key) for entry in cell]
    return MISSING if None in printed else "/".join(map(str, printed))


def _common_mark(marks: Sequence[str]) -> str:
    if "no" in marks:
        return "no"
    return "yes" if set(marks) == {"yes"} else MISSING


def tried_values(plan: Plan, entries: Sequence[Sequence[Entry]]) -> TriedValues | None:
    """Return the trials of all searches; None for a table without a search."""
    searches: dict[tuple[str, str], tuple[Entry, SearchSummary]] = {}
    for of_metric in entries:
        for entry in of_metric:
            if entry.search:
                searches.setdefault((entry.row, entry.arm), (entry, entry.search))
    if not searches:
        return None
    parameters = list(dict.fromkeys(p for _, s in searches.values() for p in s.search.parameters))
    metrics = dict.fromkeys(search.metric.label for _, search in searches.values())
    rows: list[Line] = []
    records: list[Mapping[str, Any]] = []
    for entry, search in searches.values():
        label = plan.recipe.label(entry.row, plan.scale)
        metric = [search.metric.label] if len(metrics) > 1 else []
        rows.append((label, *metric, plan.recipe.arm_label(entry.arm, plan.scale), _text(search)))
        records += _records(plan, entry, search, parameters)
    names = ["metric"] if len(metrics) > 1 else []
    result = "result" if len(metrics) > 1 else next(iter(metrics))
    header = ("model", *names, "arm", f"{'/'.join(parameters)}: {result}")
    return TriedValues(header=header, rows=tuple(rows), records=tuple(records))


def _text(search: SearchSummary) -> str:
    """Return all trials with their numbers, and the best of each seed where seeds disagree."""
    text = " · ".join(f"{trial.trial.label}: {_result(search, trial)}" for trial in search.trials)
    by_seed = [trial.trial.label for trial in search.best_by_seed.values()]
    return f"{text} (best by seed: {', '.join(by_seed)})" if len(set(by_seed)) > 1 else text


def _result(search: SearchSummary, trial: TrialSummary) -> str:
    """Return "3.252 ± 0.011 ≈" for a trial: enough digits to compare it with the others."""
    cell = trial.cell
    if cell.mean is None or cell.diverged == len(cell.states):
        return format_cell(search.metric, cell)
    text = f"{cell.mean:.4g}" + (f" ± {cell.std:.2g}" if cell.std is not None else "")
    if cell.diverged:
        text += f" ({cell.diverged} diverged)"
    verdict = _verdict(search, trial)
    return f"{text} {'≈' if verdict == 'tied' else verdict}".rstrip()


def _verdict(search: SearchSummary, trial: TrialSummary) -> str:
    """Return "best", "tied", "diverged" or "" for a trial."""
    if trial is search.best:
        return "best"
    if trial in search.ties:
        return "tied"
    return "diverged" if State.DIVERGED in trial.cell.states else ""


def _records(
    plan: Plan, entry: Entry, search: SearchSummary, parameters: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield each trial of a search as a line of CSV."""
    best_of = [trial.trial.label for trial in search.best_by_seed.values()]
    for trial in search.trials:
        cell = trial.cell
        yield {
            "table": plan.recipe.name,
            "scale": plan.scale.name,
            "row": entry.row,
            "model": plan.recipe.label(entry.row, plan.scale),
            "arm": entry.arm,
            "value": trial.trial.label,
            **{name: trial.trial.values.get(name) for name in parameters},
            "metric": search.metric.key,
            "direction": search.metric.direction,
            "mean": cell.mean,
            "std": cell.std,
            "difference": search.difference(trial),
            "verdict": _verdict(search, trial),
            "seeds_best": best_of.count(trial.trial.label),
            "seeds_with_value": len(cell.values),
            "seeds_planned": len(cell.states),
            "seeds_diverged": cell.diverged,
            "states": " ".join(map(str, cell.states)),
            "changes": " ".join(plan.recipe.change_texts),
            "signatures": " ".join(planned.run.signature for _, planned in trial.runs),
        }


def search_notes(plan: Plan, entries: Sequence[Sequence[Entry]]) -> list[str]:
    """Return the lines below a table with searches that explain it."""
    recipe, scale = plan.recipe, plan.scale
    found = {
        f"{recipe.label(entry.row, scale)}, {recipe.arm_label(entry.arm, scale)}": entry.search
        for of_metric in entries
        for entry in of_metric
        if entry.search
    }
    if not found:
        return []
    searches = found.values()
    metrics = " or ".join(dict.fromkeys(search.metric.label for search in searches))
    notes = [
        f"Best of the values tried, by the mean {metrics} over the seeds. A value with a diverged "
        "seed is never the best. All values are listed below and in the file .tried.csv."
    ]
    if any(search.ties for search in searches):
        notes.append(
            "≈: another value is as good within the spread: the mean of the paired differences "
            "over the seeds is at most their standard deviation (with one seed: equal)."
        )
    if outermost := [name for name, search in found.items() if search.best_is_outermost]:
        notes.append(
            "The best is the smallest or largest value tried, and a better one may be beyond: "
            f"{'; '.join(outermost)}."
        )
    if any(search.best and not search.ended for search in searches):
        notes.append("?: some of the values have not been computed yet.")
    if is_grid(plan):
        notes.append(
            "Matched: the runs of a cell differ in the norm only, and have the same initial "
            "weights outside the norm layers and the same first batches."
        )
    return notes
