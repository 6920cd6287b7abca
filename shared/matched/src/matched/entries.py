"""Entries of a summary table: the numbers behind each cell, ours and the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from matched.aggregation import (
    CellRuns,
    CellSummary,
    group_by_cell,
    mean_difference,
    summarize_cell,
)
from matched.audit import AuditedPair, hardware_of, matched_mark, matched_seeds
from matched.formatting import NO_GAIN, format_cell
from matched.planning import Plan
from matched.search_summary import SearchSummary, summarize_search
from matched.table import Metric


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One metric of one row and arm: our runs, the paper's numbers, and Δ of both.

    Attributes:
        ours: of a search, the best trial's values, with the states of all trials; of a metric that
            is searched for, such as α0, the best value.
        base_mean: our mean of the baseline arm, which sets the decimals of Δ; None for a baseline.
        matched: "yes", "no" or "—"; empty for a baseline, unless it is a search.
        matched_seeds: seeds whose pair with the baseline is matched.
        hardware: seed → what computed its runs, as ``matched.audit.hardware_of`` returns it.
        search: the results of all trials, if the cell is a search.
    """

    row: str
    metric: Metric
    arm: str
    runs: CellRuns
    ours: CellSummary
    base_mean: float | None
    delta: float | None
    printed: Mapping[str, Any]
    printed_delta: float | None
    matched: str
    matched_seeds: Set[int]
    hardware: Mapping[int, str]
    search: SearchSummary | None = None


def make_entries(plan: Plan, pairs: Iterable[AuditedPair]) -> list[list[Entry]]:
    """Return the entries of a table, one list for each row and metric, the baseline's first.

    A row with searches has the metric that they choose by and those that they search for; other
    rows have every metric of the scale. Unmatched runs get no Δ.
    """
    groups, arms = group_by_cell(plan), shown_arms(plan)
    pairs_by_cell: dict[tuple[str, str], list[AuditedPair]] = {}
    for pair in pairs:
        pairs_by_cell.setdefault((pair.row, pair.arm), []).append(pair)
    return [
        _entries(plan, row, metric, arms, pairs_by_cell, groups)
        for row in plan.scale.runs
        for metric in _shown_metrics(plan, row, arms)
    ]


def shown_arms(plan: Plan) -> list[str]:
    """Return the arms that have a cell at the scale, which may leave out some of the paper's."""
    present = {cell.arm for cell in plan.recipe.table.cells(plan.scale)}
    return [arm.name for arm in plan.recipe.table.arms if arm.name in present]


def _shown_metrics(plan: Plan, row: str, arms: Sequence[str]) -> list[Metric]:
    """Return the metrics of a row."""
    searches = [search for arm in arms if (search := plan.scale.search(row, arm))]
    keys = {key for search in searches for key in (search.metric, *search.parameters)}
    metrics = plan.recipe.metrics(plan.scale)
    return [metric for metric in metrics if not searches or metric.key in keys]


def _entries(
    plan: Plan,
    row: str,
    metric: Metric,
    arms: Sequence[str],
    pairs_by_cell: Mapping[tuple[str, str], list[AuditedPair]],
    groups: Mapping[tuple[str, str], CellRuns],
) -> list[Entry]:
    """Return the entries of one row and metric."""
    metrics = {metric.key: metric for metric in plan.recipe.metrics(plan.scale)}
    entries: list[Entry] = []
    for arm in arms:
        runs, printed = groups.get((row, arm), []), plan.recipe.printed_cell(row, arm)
        pairs = pairs_by_cell.get((row, arm), [])
        searched, summary = plan.scale.search(row, arm), None
        if searched is not None:
            summary = summarize_search(searched, runs, metrics[searched.metric])
        ours = summary.cell(metric) if summary else summarize_cell(runs, metric)
        value = summary.best.trial.label if summary and summary.best else ""
        # Without a baseline there is no Δ, but the trials of a search are matched with each other.
        base = entries[0] if entries and entries[0].search is None else None
        mark = matched_mark(pairs, row, arm) if base or searched else ""
        seeds = matched_seeds(pairs, row, arm, value) if mark != "no" else set()
        entries.append(
            Entry(
                row=row,
                metric=metric,
                arm=arm,
                runs=runs,
                ours=ours,
                base_mean=base.ours.mean if base else None,
                delta=mean_difference(base.ours, ours, seeds) if base else None,
                printed=printed,
                printed_delta=_printed_delta(base.printed, printed, metric) if base else None,
                matched=mark,
                matched_seeds=seeds,
                hardware=_hardware(plan, runs),
                search=summary,
            )
        )
    return entries


def _hardware(plan: Plan, runs: CellRuns) -> dict[int, str]:
    names: dict[int, set[str]] = {}
    for cell, planned in runs:
        names.setdefault(cell.seed, set()).add(hardware_of(plan, planned.run))
    return {seed: ", ".join(sorted(found - {""})) for seed, found in names.items()}


def _printed_delta(
    base: Mapping[str, Any], printed: Mapping[str, Any], metric: Metric
) -> float | None:
    if metric.key not in base or metric.key not in printed:
        return None
    difference: float = printed[metric.key] - base[metric.key]
    return round(difference, 9)  # as in ``mean_difference``


def format_ours(entry: Entry) -> str:
    """Format our result: of a search the best, with the value that gave it, or "no gain".

    "?" means that some trials have not ended, "≈" that others are within the spread over seeds.
    """
    text, search = format_cell(entry.metric, entry.ours), entry.search
    if search is None or search.best is None:
        return text
    marks = best_marks(search)
    if entry.ours.found is not None:
        return text + marks
    if search.no_gain:
        return NO_GAIN + marks
    return f"{text} ({search.best.trial.label}{marks})"


def best_marks(search: SearchSummary) -> str:
    """Return the marks after a search's best value."""
    return ("" if search.ended else "?") + ("≈" if search.ties else "")


def format_finished_count(entries: Sequence[Entry]) -> str:
    """Return "finished/planned" runs, such as "3/4"."""
    states = [state for entry in entries for state in entry.ours.states]
    return f"{sum(state.finished for state in states)}/{len(states)}"
