"""Summary table of a plan: formatted cells, with the paper's numbers and notes, for any output.

``matched.entries`` has the numbers, and ``matched.table_formats`` writes the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matched import data
from matched.audit import AuditedPair, audit_pairs
from matched.entries import Entry, format_finished_count, format_ours, make_entries, shown_arms
from matched.formatting import format_delta, format_printed_cell, metric_name
from matched.gallery import NO_PICTURES, Gallery
from matched.planning import Plan
from matched.search_layout import TriedValues, grid, is_grid, search_notes, tried_values
from matched.status import State
from matched.table import Metric

MAX_ARM_COLUMNS = 2
"""With more arms than this every arm has a row, otherwise a table of five would have 23 columns."""


@dataclass(frozen=True, kw_only=True)
class SummaryTable:
    """A table of text: header, rows, and notes below.

    Attributes:
        warnings: those of the notes that need attention: unmatched pairs, failed and damaged runs,
            warnings of tasks, pictures that cannot be shown.
        entries: the numbers behind the rows, one entry per row, metric and arm.
        records: the entries as plain values, for CSV.
        gallery: pictures that Markdown shows below the table.
        tried: all trials of the table's searches; None without a search.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    entries: tuple[Entry, ...]
    records: tuple[Mapping[str, Any], ...]
    gallery: Gallery
    tried: TriedValues | None


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The optional columns of a table: the name of the metric, and the paper's numbers."""

    metric: bool
    paper: bool


def summary_table(plan: Plan, gallery: Gallery = NO_PICTURES) -> SummaryTable:
    """Create the table of a plan from the present results of its runs."""
    recipe, scale = plan.recipe, plan.scale
    pairs, titles = audit_pairs(plan), data_titles(plan)
    entries = make_entries(plan, pairs)
    header, rows = grid(plan, entries) if is_grid(plan) else _rows_by_arm(plan, entries)
    warnings = (*_warnings(plan, pairs), *gallery.notes)
    flat = tuple(entry for of_metric in entries for entry in of_metric)
    return SummaryTable(
        title=f"{recipe.title} · {scale.name} scale",
        caption=recipe.caption,
        header=header,
        rows=tuple(rows),
        notes=(*_notes(plan, titles), *search_notes(plan, entries), *warnings),
        warnings=warnings,
        entries=flat,
        records=tuple(_record(plan, titles, entry) for entry in flat),
        gallery=gallery,
        tried=tried_values(plan, entries),
    )


def _rows_by_arm(
    plan: Plan, entries: Sequence[Sequence[Entry]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of a table that compares arms, in columns or one row for each."""
    recipe, arms = plan.recipe, shown_arms(plan)
    metrics = recipe.metrics(plan.scale)
    columns = _Columns(metric=len(metrics) > 1, paper=recipe.paper is not None)
    layout = _one_row if len(arms) <= MAX_ARM_COLUMNS else _one_row_per_arm
    rows: list[tuple[str, ...]] = []
    for of_metric in entries:
        label = recipe.label(of_metric[0].row, plan.scale)
        rows += layout(label, of_metric[0].metric, of_metric, columns)
    return _header(metrics, arms, columns), rows


def _one_row(
    label: str, metric: Metric, entries: Sequence[Entry], columns: _Columns
) -> list[tuple[str, ...]]:
    """Format a row of the recipe as one row with a column per arm."""
    base, *other_entries = entries
    printed = (
        *(format_printed_cell(metric, entry.printed) for entry in entries),
        *(
            format_delta(metric, base.printed.get(metric.key), e.printed_delta)
            for e in other_entries
        ),
    )
    line = (
        label,
        *([metric_name(metric)] if columns.metric else []),
        *(format_ours(entry) for entry in entries),
        *(format_delta(metric, base.ours.mean, entry.delta) for entry in other_entries),
        *(printed if columns.paper else ()),
        format_finished_count(entries),
        *(entry.matched for entry in other_entries),
    )
    return [line]


def _one_row_per_arm(
    label: str, metric: Metric, entries: Sequence[Entry], columns: _Columns
) -> list[tuple[str, ...]]:
    """Format a row of the recipe as one row per arm; only the first has the row's label."""
    base = entries[0]
    lines = []
    for entry in entries:
        first = entry is base
        base_printed = base.printed.get(metric.key)
        printed = (
            format_printed_cell(metric, entry.printed),
            "" if first else format_delta(metric, base_printed, entry.printed_delta),
        )
        lines.append(
            (
                label if first else "",
                *([metric_name(metric) if first else ""] if columns.metric else []),
                entry.arm,
                format_ours(entry),
                "" if first else format_delta(metric, base.ours.mean, entry.delta),
                *(printed if columns.paper else ()),
                format_finished_count([entry]),
                entry.matched,
            )
        )
    return lines


def _header(metrics: tuple[Metric, ...], arms: list[str], columns: _Columns) -> tuple[str, ...]:
    names = ["model", "metric"] if columns.metric else [metric_name(metrics[0])]
    if len(arms) > MAX_ARM_COLUMNS:
        results = ("ours", "Δ", "paper", "paper Δ") if columns.paper else ("result", "Δ")
        return (*names, "arm", *results, "runs", "matched")
    deltas = ["Δ"] * (len(arms) - 1)
    paper = [f"paper {name}" for name in [*arms, *deltas]] if columns.paper else []
    return (*names, *arms, *deltas, *paper, "runs", *["matched"] * (len(arms) - 1))


def data_titles(plan: Plan) -> str:
    """Return the titles of all data sources that the runs of a plan read, and what was in them."""
    names = {name for planned in plan.runs for name in data.source_names(planned.run.config)}
    titles = ", ".join(data.load_source(name).title for name in sorted(names))
    # The configs of a user's own table need not name its data.
    titles = titles or ("none" if plan.recipe.paper else "the recipe's own")
    details = [(planned.status.result or {}).get("details", {}) for planned in plan.runs]
    contents = dict.fromkeys(found["data"] for found in details if "data" in found)
    return f"{titles} ({'; '.join(contents)})" if contents else titles


def _notes(plan: Plan, titles: str) -> list[str]:
    """Return the lines below the table that explain it."""
    scale, table = plan.scale, plan.recipe.table
    notes = [f"Scale: {scale.name}. Data: {titles}. Seeds: {len(scale.seeds)} per cell."]
    if plan.recipe.changes:
        changes = ", ".join(plan.recipe.change_texts)
        notes.append(f"Changed on the command line: {changes}.")
    if plan.recipe.paper and scale.name != "paper":
        notes.append(
            f"Not a reproduction of the paper: {scale.name} scale uses other models and other data."
        )
    if scale.note:
        notes.append(scale.note)
    if scale.arm_norms:
        notes.append(
            f"Norms at this scale: {_scale_norms(plan)}, because {scale.arm_norms.reason}."
        )
    if hardware := _hardware(plan):
        notes.append(f"Measured on {'; '.join(hardware)}.")
    if len(scale.seeds) > 1:
        notes.append("± is the standard deviation over seeds.")
    if is_grid(plan):
        return [*notes, *table.allowed_difference_notes()]
    arm = table.arms[1].name if len(table.arms) == 2 else "each arm"
    notes.append(
        f"Δ is {arm} minus {table.baseline.name}, averaged over the seeds that both have. It is "
        "shown for matched pairs only: same config except for the norm, same initial weights "
        "outside the norm layers, same first batches."
    )
    return [*notes, *table.allowed_difference_notes()]


def _scale_norms(plan: Plan) -> str:
    """Return the norms that replace the table's, with the row of those that are of one row."""
    arm_norms = plan.scale.arm_norms
    assert arm_norms is not None
    everywhere = ", ".join(map(str, arm_norms.norms.values()))
    by_row = (
        f"{', '.join(map(str, norms.values()))} for {plan.recipe.label(row, plan.scale)}"
        for row, norms in arm_norms.by_row.items()
    )
    return "; ".join(filter(None, [everywhere, *by_row]))


def _hardware(plan: Plan) -> list[str]:
    """Return what the times of a plan were measured on; each piece of hardware once."""
    details = [(planned.status.result or {}).get("details", {}) for planned in plan.runs]
    return list(dict.fromkeys(found["hardware"] for found in details if "hardware" in found))


def _warnings(plan: Plan, pairs: list[AuditedPair]) -> list[str]:
    """Return the lines below the table that need attention."""
    warnings = [
        f"NOT MATCHED: {pair.row}, {pair.column}, seed {pair.seed}: {pair.reason}."
        for pair in pairs
        if pair.verdict == "not matched"
    ]
    if len(hardware := _hardware(plan)) > 1:
        warnings.append(
            f"MIXED HARDWARE: the runs of this table were measured on {len(hardware)} machines or "
            "versions; each run compares its arms on one of them, and ± includes their differences."
        )
    warnings += [
        f"Different hardware: {pair.row}, {pair.arm}, seed {pair.seed}: "
        f"{' against '.join(pair.hardware)}; this pair is not part of Δ."
        for pair in pairs
        if pair.different_hardware
    ]
    warnings += [
        f"Warning: {planned.title}: {warning}"
        for planned in plan.runs
        for warning in (planned.status.result or {}).get("details", {}).get("warnings", ())
    ]
    warnings += [
        f"{str(planned.status.state).capitalize()}: {planned.title}: {planned.status.reason}"
        for planned in plan.runs
        if planned.status.state in (State.FAILED, State.DAMAGED)
    ]
    return warnings


def _record(plan: Plan, titles: str, entry: Entry) -> dict[str, Any]:
    """Return an entry as a line of CSV."""
    ours, metric = entry.ours, entry.metric
    return {
        "table": plan.recipe.name,
        "scale": plan.scale.name,
        "data": titles,
        "row": entry.row,
        "model": plan.recipe.label(entry.row, plan.scale),
        "arm": entry.arm,
        "metric": metric.key,
        "unit": metric.unit,
        "direction": metric.direction,
        "mean": ours.mean,
        "std": ours.std,
        "seeds_with_value": len(ours.values),
        "seeds_planned": len(ours.states),
        "seeds_diverged": ours.diverged,
        "delta": entry.delta,
        "paper": entry.printed.get(metric.key),
        "paper_delta": entry.printed_delta,
        "matched": entry.matched,
        "best": entry.search.best.trial.label if entry.search and entry.search.best else None,
        "states": " ".join(map(str, ours.states)),
        "changes": " ".join(plan.recipe.change_texts),
        "signatures": " ".join(planned.run.signature for _, planned in entry.runs),
    }
