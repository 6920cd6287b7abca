"""The summary table as text: our numbers, the paper's beside them, and what has to be known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matched import data
from matched.launch import Item, Plan
from matched.results import Pair, Summary, by_cell, matched_mark, pairs, summarise
from matched.rundir import State
from matched.table import Cell, Metric

MISSING = "—"


@dataclass(frozen=True, kw_only=True)
class SummaryTable:
    """What is printed and written: a header, rows of text, and lines below the table.

    ``records`` are the same cells as flat rows, for CSV.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]


def summary_table(plan: Plan) -> SummaryTable:
    """The table of a plan as its runs stand now."""
    recipe, scale = plan.recipe, plan.scale
    metrics, arms = recipe.metrics(scale), [arm.name for arm in recipe.table.arms]
    found, runs = pairs(plan), by_cell(plan)
    several = len(metrics) > 1
    rows, records = [], []
    for row in scale.runs:
        for metric in metrics:
            cells = {arm: summarise(runs.get((row, arm), ()), metric) for arm in arms}
            printed = {arm: recipe.paper.cell(row, arm) for arm in arms}
            label = [recipe.paper.label(row), *([metric.label] if several else [])]
            text = [*label, *_ours(metric, arms, cells), *_printed(metric, arms, printed)]
            finished = sum(s.finished for c in cells.values() for s in c.states.values())
            planned = sum(len(c.states) for c in cells.values())
            rows.append((*text, f"{finished}/{planned}", *_marks(found, row, arms)))
            records += _records(plan, row, metric, cells, printed, found, runs)
    return SummaryTable(
        title=f"{recipe.paper.title} · {scale.name} scale",
        caption=recipe.paper.caption,
        header=_header(metrics, arms),
        rows=tuple(rows),
        notes=tuple(_notes(plan, found)),
        records=tuple(records),
    )


def _header(metrics: tuple[Metric, ...], arms: list[str]) -> tuple[str, ...]:
    one = metrics[0]
    unit = f" {one.unit}" if one.unit else ""
    names = ["model", "metric"] if len(metrics) > 1 else [f"{one.label}{unit}"]
    others = arms[1:]
    changes = ["Δ"] if len(others) == 1 else [f"Δ {arm}" for arm in others]
    paper = [f"paper {name}" for name in [*arms, *changes]]
    checks = ["matched"] if len(others) == 1 else [f"{arm} matched" for arm in others]
    return (*names, *arms, *changes, *paper, "runs", *checks)


def _ours(metric: Metric, arms: list[str], cells: Mapping[str, Summary]) -> list[str]:
    base = cells[arms[0]].mean
    deltas = [_delta(metric, base, cells[arm].mean) for arm in arms[1:]]
    return [*(cell_text(metric, cells[arm]) for arm in arms), *deltas]


def _printed(
    metric: Metric, arms: list[str], printed: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    base = printed[arms[0]].get(metric.key)
    deltas = [_delta(metric, base, printed[arm].get(metric.key)) for arm in arms[1:]]
    return [*(printed_text(metric, printed[arm]) for arm in arms), *deltas]


def _marks(found: list[Pair], row: str, arms: list[str]) -> list[str]:
    return [matched_mark(found, row, arm) for arm in arms[1:]]


def number(metric: Metric, value: float, like: float | None = None) -> str:
    """``value`` with as many decimals as a value of the size of ``like`` deserves."""
    size = abs(value if like is None else like)
    decimals = 1 if metric.unit == "%" or size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def cell_text(metric: Metric, cell: Summary) -> str:
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


def _absent(cell: Summary) -> str:
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


def _delta(metric: Metric, base: float | None, value: float | None) -> str:
    if base is None or value is None:
        return MISSING
    text = number(metric, value - base, base)
    zero = float(text) == 0
    return text.lstrip("-") if zero else text if value < base else f"+{text}"


def data_titles(plan: Plan) -> str:
    names = {name for item in plan.items for name in data.names_read(item.run.config)}
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
        f"Δ is {others} minus {table.baseline.name}. Matched: equal configs but for the norm, "
        "equal first weights outside the norms, equal first batches."
    )
    notes += [
        f"Not matched in {field}, on purpose: {why}" for field, why in table.exceptions.items()
    ]
    notes += [
        f"NOT MATCHED: {pair.row}, {pair.arm}, seed {pair.seed}: {pair.why}."
        for pair in found
        if pair.verdict == "not matched"
    ]
    notes += [
        f"{str(item.standing.state).capitalize()}: {item.title}: {item.standing.why}"
        for item in plan.items
        if item.standing.state in (State.FAILED, State.DAMAGED)
    ]
    return notes


def _records(
    plan: Plan,
    row: str,
    metric: Metric,
    cells: Mapping[str, Summary],
    printed: Mapping[str, Mapping[str, Any]],
    found: list[Pair],
    runs: Mapping[tuple[str, str], list[tuple[Cell, Item]]],
) -> list[dict[str, Any]]:
    baseline = plan.recipe.table.baseline.name
    base, paper_base = cells[baseline].mean, printed[baseline].get(metric.key)
    records = []
    for arm, cell in cells.items():
        paper = printed[arm].get(metric.key)
        is_base = arm == baseline
        records.append(
            {
                "table": plan.recipe.name,
                "scale": plan.scale.name,
                "data": data_titles(plan),
                "row": row,
                "model": plan.recipe.paper.label(row),
                "arm": arm,
                "metric": metric.key,
                "unit": metric.unit,
                "direction": metric.direction,
                "mean": cell.mean,
                "std": cell.deviation,
                "seeds_with_value": len(cell.values),
                "seeds_planned": len(cell.states),
                "seeds_diverged": cell.diverged,
                "delta": _difference(is_base, base, cell.mean),
                "paper": paper,
                "paper_delta": _difference(is_base, paper_base, paper),
                "matched": "" if is_base else matched_mark(found, row, arm),
                "states": " ".join(map(str, cell.states.values())),
                "signatures": " ".join(i.run.signature for _, i in runs.get((row, arm), ())),
            }
        )
    return records


def _difference(is_base: bool, base: float | None, value: float | None) -> float | None:
    # Rounded far below what is printed: 82.5 - 82.3 is 0.20000000000000284 in floating point.
    return None if is_base or base is None or value is None else round(value - base, 9)
