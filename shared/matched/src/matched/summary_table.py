"""Summary table of a plan: formatted cells, with the paper's numbers and notes, for any output.

``matched.aggregation`` computes the numbers, and ``matched.table_formats`` writes the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from matched import data
from matched.aggregation import (
    CellRuns,
    CellSummary,
    group_by_cell,
    mean_difference,
    summarize_cell,
)
from matched.audit import AuditedPair, audit_pairs, hardware_of, matched_mark, matched_seeds
from matched.gallery import NO_PICTURES, Gallery
from matched.planning import Plan
from matched.status import State
from matched.table import Metric

MISSING = "—"
MAX_ARM_COLUMNS = 2
"""With more arms than this every arm has a row, otherwise a table of five would have 23 columns."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One metric of one row and arm: our runs, the paper's numbers, and Δ of both.

    Attributes:
        base_mean: our mean of the baseline arm, which sets the decimals of Δ; None for a baseline.
        matched: "yes", "no" or "—"; empty for the baseline.
        matched_seeds: seeds whose pair with the baseline is matched.
        hardware: seed → what computed its run, as ``matched.audit.hardware_of`` returns it.
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


@dataclass(frozen=True, kw_only=True)
class SummaryTable:
    """A table of text: header, rows, and notes below.

    Attributes:
        warnings: those of the notes that need attention: unmatched pairs, failed and damaged runs,
            warnings of tasks, pictures that cannot be shown.
        entries: the numbers behind the rows, one entry per row, metric and arm.
        records: the entries as plain values, for CSV.
        gallery: pictures that Markdown shows below the table.
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


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The optional columns of a table: the name of the metric, and the paper's numbers."""

    metric: bool
    paper: bool


def summary_table(plan: Plan, gallery: Gallery = NO_PICTURES) -> SummaryTable:
    """Create the table of a plan from the present results of its runs."""
    recipe, scale = plan.recipe, plan.scale
    metrics, arms = recipe.metrics(scale), [arm.name for arm in recipe.table.arms]
    columns = _Columns(metric=len(metrics) > 1, paper=recipe.paper is not None)
    pairs, groups, titles = audit_pairs(plan), group_by_cell(plan), data_titles(plan)
    pairs_by_cell: dict[tuple[str, str], list[AuditedPair]] = {}
    for pair in pairs:
        pairs_by_cell.setdefault((pair.row, pair.arm), []).append(pair)
    rows, all_entries = [], []
    for row in scale.runs:
        for metric in metrics:
            entries = _entries(plan, row, metric, pairs_by_cell, groups)
            layout = _one_row if len(arms) <= MAX_ARM_COLUMNS else _one_row_per_arm
            rows += layout(recipe.label(row), metric, entries, columns)
            all_entries += entries
    warnings = (*_warnings(plan, pairs), *gallery.notes)
    return SummaryTable(
        title=f"{recipe.title} · {scale.name} scale",
        caption=recipe.caption,
        header=_header(metrics, arms, columns),
        rows=tuple(rows),
        notes=(*_notes(plan, titles), *warnings),
        warnings=warnings,
        entries=tuple(all_entries),
        records=tuple(_record(plan, titles, entry) for entry in all_entries),
        gallery=gallery,
    )


def _entries(
    plan: Plan,
    row: str,
    metric: Metric,
    pairs_by_cell: Mapping[tuple[str, str], list[AuditedPair]],
    groups: Mapping[tuple[str, str], CellRuns],
) -> list[Entry]:
    """Return the entries of a row, the baseline's first. Unmatched runs get no Δ."""
    entries: list[Entry] = []
    for arm in plan.recipe.table.arms:
        runs = groups.get((row, arm.name), [])
        ours, printed = summarize_cell(runs, metric), plan.recipe.printed_cell(row, arm.name)
        base, pairs = entries[0] if entries else None, pairs_by_cell.get((row, arm.name), [])
        mark = matched_mark(pairs, row, arm.name) if base else ""
        seeds = matched_seeds(pairs, row, arm.name) if mark != "no" else set()
        entries.append(
            Entry(
                row=row,
                metric=metric,
                arm=arm.name,
                runs=runs,
                ours=ours,
                base_mean=base.ours.mean if base else None,
                delta=mean_difference(base.ours, ours, seeds) if base else None,
                printed=printed,
                printed_delta=_printed_delta(base.printed, printed, metric) if base else None,
                matched=mark,
                matched_seeds=seeds,
                hardware={cell.seed: hardware_of(plan, item.run) for cell, item in runs},
            )
        )
    return entries


def _printed_delta(
    base: Mapping[str, Any], printed: Mapping[str, Any], metric: Metric
) -> float | None:
    if metric.key not in base or metric.key not in printed:
        return None
    difference: float = printed[metric.key] - base[metric.key]
    return round(difference, 9)  # as in ``mean_difference``


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
        *(format_cell(metric, entry.ours) for entry in entries),
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
                format_cell(metric, entry.ours),
                "" if first else format_delta(metric, base.ours.mean, entry.delta),
                *(printed if columns.paper else ()),
                format_finished_count([entry]),
                entry.matched,
            )
        )
    return lines


def format_finished_count(entries: Sequence[Entry]) -> str:
    """Return "finished/planned" runs, such as "3/4"."""
    states = [state for entry in entries for state in entry.ours.states.values()]
    return f"{sum(state.finished for state in states)}/{len(states)}"


def _header(metrics: tuple[Metric, ...], arms: list[str], columns: _Columns) -> tuple[str, ...]:
    names = ["model", "metric"] if columns.metric else [metric_name(metrics[0])]
    if len(arms) > MAX_ARM_COLUMNS:
        results = ("ours", "Δ", "paper", "paper Δ") if columns.paper else ("result", "Δ")
        return (*names, "arm", *results, "runs", "matched")
    deltas = ["Δ"] * (len(arms) - 1)
    paper = [f"paper {name}" for name in [*arms, *deltas]] if columns.paper else []
    return (*names, *arms, *deltas, *paper, "runs", *["matched"] * (len(arms) - 1))


def metric_name(metric: Metric) -> str:
    """Return label and unit."""
    return f"{metric.label} {metric.unit}".strip()


def format_number(metric: Metric, value: float, reference: float | None = None) -> str:
    """Format ``value`` with the number of decimals that suits the size of ``reference``.

    Without a reference the size is that of ``value``.
    """
    size = abs(value if reference is None else reference)
    decimals = 1 if metric.unit == "%" or size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def format_cell(metric: Metric, cell: CellSummary) -> str:
    """Format mean ± standard deviation over seeds, and how many diverged; else the state."""
    if cell.mean is None:
        return "diverged" if cell.diverged else _state_without_number(cell)
    text = format_number(metric, cell.mean)
    if cell.std is not None:
        text += f" ± {format_number(metric, cell.std, cell.mean)}"
    if cell.diverged:
        every = cell.diverged == len(cell.states)
        text += " → diverged" if every else f" ({cell.diverged} diverged)"
    return text


def _state_without_number(cell: CellSummary) -> str:
    """Return the state of a cell without a number: of several, the one to look at first."""
    order = (State.DAMAGED, State.FAILED, State.RUNNING, State.QUEUED)
    return next((str(state) for state in order if state in cell.states.values()), MISSING)


def format_printed_cell(metric: Metric, cell: Mapping[str, Any]) -> str:
    """Format a cell as the paper prints it."""
    value = cell.get(metric.key)
    text = "" if value is None else str(value)
    if cell.get("diverged"):
        return f"{text} → diverged" if text else "diverged"
    return text or MISSING


def format_delta(metric: Metric, base: float | None, delta: float | None) -> str:
    """Format a difference with its sign and the decimals of the baseline's value."""
    if base is None or delta is None:
        return MISSING
    text = format_number(metric, delta, base)
    if float(text) == 0:
        return text.lstrip("-")
    return text if delta < 0 else f"+{text}"


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
        f"{', '.join(map(str, norms.values()))} for {plan.recipe.label(row)}"
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
        f"NOT MATCHED: {pair.row}, {pair.arm}, seed {pair.seed}: {pair.reason}."
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
        "model": plan.recipe.label(entry.row),
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
        "states": " ".join(map(str, ours.states.values())),
        "changes": " ".join(plan.recipe.change_texts),
        "signatures": " ".join(planned.run.signature for _, planned in entry.runs),
    }
