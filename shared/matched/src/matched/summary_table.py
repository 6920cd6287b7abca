"""The summary table as text: our numbers, the paper's beside them, and what has to be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matched import data
from matched.aggregation import CellSummary, by_cell, change, summarise
from matched.audit import Pair, matched_mark, matched_seeds, pairs
from matched.gallery import NO_PICTURES, Gallery
from matched.planning import Plan, PlannedRun
from matched.status import State
from matched.table import Cell, Metric

MISSING = "—"
SIDE_BY_SIDE = 2
"""The most arms that are columns; more are lines, or a table of five would have 23 columns."""


@dataclass(frozen=True, kw_only=True)
class SummaryTable:
    """What is printed and written: a header, rows of text, and lines below the table.

    Attributes:
        records: the same cells as flat rows, for CSV.
        gallery: what Markdown shows below.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    gallery: Gallery


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One arm's cell: our runs, the paper's numbers, and both compared with the baseline's."""

    arm: str
    runs: list[tuple[Cell, PlannedRun]]
    ours: CellSummary
    change: float | None
    printed: Mapping[str, Any]
    printed_change: float | None
    matched: str


def summary_table(plan: Plan, gallery: Gallery = NO_PICTURES) -> SummaryTable:
    """The table of a plan as its runs stand now, with the pictures that were gathered of them."""
    recipe, scale = plan.recipe, plan.scale
    metrics, arms = recipe.metrics(scale), [arm.name for arm in recipe.table.arms]
    found, runs = pairs(plan), by_cell(plan)
    rows, records = [], []
    for row in scale.runs:
        for metric in metrics:
            entries = _entries(plan, row, metric, found, runs)
            layout = _side_by_side if len(arms) <= SIDE_BY_SIDE else _one_below_another
            rows += layout(recipe.paper.label(row), metric, entries, len(metrics) > 1)
            records += [_record(plan, row, metric, entry) for entry in entries]
    return SummaryTable(
        title=f"{recipe.paper.title} · {scale.name} scale",
        caption=recipe.paper.caption,
        header=_header(metrics, arms),
        rows=tuple(rows),
        notes=(*_notes(plan, found), *gallery.notes),
        records=tuple(records),
        gallery=gallery,
    )


def _entries(
    plan: Plan,
    row: str,
    metric: Metric,
    found: list[Pair],
    runs: Mapping[tuple[str, str], list[tuple[Cell, PlannedRun]]],
) -> list[_Entry]:
    """A row's entries, the baseline's first. Runs that are not matched are not compared."""
    entries: list[_Entry] = []
    for arm in plan.recipe.table.arms:
        items = runs.get((row, arm.name), [])
        ours, printed = summarise(items, metric), plan.recipe.paper.cell(row, arm.name)
        base = entries[0] if entries else None
        mark = matched_mark(found, row, arm.name) if base else ""
        alike = matched_seeds(found, row, arm.name) if mark != "no" else set()
        entries.append(
            _Entry(
                arm=arm.name,
                runs=items,
                ours=ours,
                change=change(base.ours, ours, alike) if base else None,
                printed=printed,
                printed_change=_printed_change(base.printed, printed, metric) if base else None,
                matched=mark,
            )
        )
    return entries


def _printed_change(
    base: Mapping[str, Any], printed: Mapping[str, Any], metric: Metric
) -> float | None:
    if metric.key not in base or metric.key not in printed:
        return None
    return round(printed[metric.key] - base[metric.key], 9)  # as in ``change``


def _side_by_side(
    label: str, metric: Metric, entries: Sequence[_Entry], name_metric: bool
) -> list[tuple[str, ...]]:
    """A row of the paper as one line, its arms as columns."""
    base, *others = entries
    line = (
        label,
        *([metric.label] if name_metric else []),
        *(cell_text(metric, entry.ours) for entry in entries),
        *(_delta(metric, base.ours.mean, entry.change) for entry in others),
        *(printed_text(metric, entry.printed) for entry in entries),
        *(_delta(metric, base.printed.get(metric.key), e.printed_change) for e in others),
        _finished(entries),
        *(entry.matched for entry in others),
    )
    return [line]


def _one_below_another(
    label: str, metric: Metric, entries: Sequence[_Entry], name_metric: bool
) -> list[tuple[str, ...]]:
    """A row of the paper as one line for each arm; the row is named in the first."""
    base = entries[0]
    return [
        (
            label if entry is base else "",
            *([metric.label if entry is base else ""] if name_metric else []),
            entry.arm,
            cell_text(metric, entry.ours),
            "" if entry is base else _delta(metric, base.ours.mean, entry.change),
            printed_text(metric, entry.printed),
            ""
            if entry is base
            else _delta(metric, base.printed.get(metric.key), entry.printed_change),
            _finished([entry]),
            entry.matched,
        )
        for entry in entries
    ]


def _finished(entries: Sequence[_Entry]) -> str:
    states = [state for entry in entries for state in entry.ours.states.values()]
    return f"{sum(state.finished for state in states)}/{len(states)}"


def _header(metrics: tuple[Metric, ...], arms: list[str]) -> tuple[str, ...]:
    one = metrics[0]
    unit = f" {one.unit}" if one.unit else ""
    names = ["model", "metric"] if len(metrics) > 1 else [f"{one.label}{unit}"]
    if len(arms) > SIDE_BY_SIDE:
        return (*names, "arm", "ours", "Δ", "paper", "paper Δ", "runs", "matched")
    change = ["Δ"] * (len(arms) - 1)
    paper = [f"paper {name}" for name in [*arms, *change]]
    return (*names, *arms, *change, *paper, "runs", *["matched"] * (len(arms) - 1))


def number(metric: Metric, value: float, like: float | None = None) -> str:
    """``value`` with as many decimals as a value of the size of ``like`` deserves."""
    size = abs(value if like is None else like)
    decimals = 1 if metric.unit == "%" or size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def cell_text(metric: Metric, cell: CellSummary) -> str:
    """Mean ± standard deviation over seeds, with what diverged or is not there."""
    if cell.mean is None:
        return "diverged" if cell.diverged else _absent(cell)
    text = number(metric, cell.mean)
    if cell.deviation is not None:
        text += f" ± {number(metric, cell.deviation, cell.mean)}"
    if cell.diverged:
        every = cell.diverged == len(cell.states)
        text += " → diverged" if every else f" ({cell.diverged} diverged)"
    return text


def _absent(cell: CellSummary) -> str:
    """The most telling state of a cell without a number."""
    order = (State.DAMAGED, State.FAILED, State.RUNNING, State.QUEUED)
    return next((str(state) for state in order if state in cell.states.values()), MISSING)


def printed_text(metric: Metric, cell: Mapping[str, Any]) -> str:
    """A cell as the paper prints it."""
    value = cell.get(metric.key)
    text = "" if value is None else str(value)
    if cell.get("diverged"):
        return f"{text} → diverged" if text else "diverged"
    return text or MISSING


def _delta(metric: Metric, base: float | None, difference: float | None) -> str:
    """A signed change, with the decimals of the baseline."""
    if base is None or difference is None:
        return MISSING
    text = number(metric, difference, base)
    if float(text) == 0:
        return text.lstrip("-")
    return text if difference < 0 else f"+{text}"


def data_titles(plan: Plan) -> str:
    names = {name for planned in plan.runs for name in data.names_read(planned.run.config)}
    return ", ".join(data.source(name).title for name in sorted(names)) or "none"


def _notes(plan: Plan, found: list[Pair]) -> list[str]:
    scale, table = plan.scale, plan.recipe.table
    notes = [f"Scale: {scale.name}. Data: {data_titles(plan)}. Seeds: {len(scale.seeds)} per cell."]
    if scale.name != "paper":
        notes.append(
            f"Numbers of {scale.name} scale are not the paper's and must not be read as its "
            "reproduction: other models, other data."
        )
    if scale.note:
        notes.append(scale.note)
    if len(scale.seeds) > 1:
        notes.append("± is the standard deviation over seeds.")
    others = ", ".join(arm.name for arm in table.arms[1:])
    notes.append(
        f"Δ is {others} minus {table.baseline.name}, over the seeds that both have, and only where "
        "they are matched: equal configs but for the norm, equal first weights outside the norms, "
        "equal first batches."
    )
    notes += [
        f"Not matched in {what}, on purpose: {why}"
        for what, why in table.allowed_difference_reasons()
    ]
    notes += [
        f"NOT MATCHED: {pair.row}, {pair.arm}, seed {pair.seed}: {pair.reason}."
        for pair in found
        if pair.verdict == "not matched"
    ]
    notes += [
        f"Warning: {planned.title}: {warning}"
        for planned in plan.runs
        for warning in (planned.status.result or {}).get("details", {}).get("warnings", ())
    ]
    notes += [
        f"{str(planned.status.state).capitalize()}: {planned.title}: {planned.status.reason}"
        for planned in plan.runs
        if planned.status.state in (State.FAILED, State.DAMAGED)
    ]
    return notes


def _record(plan: Plan, row: str, metric: Metric, entry: _Entry) -> dict[str, Any]:
    """An entry as a line of CSV."""
    ours = entry.ours
    return {
        "table": plan.recipe.name,
        "scale": plan.scale.name,
        "data": data_titles(plan),
        "row": row,
        "model": plan.recipe.paper.label(row),
        "arm": entry.arm,
        "metric": metric.key,
        "unit": metric.unit,
        "direction": metric.direction,
        "mean": ours.mean,
        "std": ours.deviation,
        "seeds_with_value": len(ours.values),
        "seeds_planned": len(ours.states),
        "seeds_diverged": ours.diverged,
        "delta": entry.change,
        "paper": entry.printed.get(metric.key),
        "paper_delta": entry.printed_change,
        "matched": entry.matched,
        "states": " ".join(map(str, ours.states.values())),
        "signatures": " ".join(planned.run.signature for _, planned in entry.runs),
    }
