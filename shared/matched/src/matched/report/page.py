"""The report's page: one HTML file with its style sheet, script and charts inside.

It loads nothing from the network. Pictures are copied to its folder; links lead to run directories.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from matched.files import write_text
from matched.formatting import MISSING
from matched.planning import PlannedRun
from matched.report import curves, svg
from matched.report.collect import Results, TableResults, mixed_over_tables
from matched.report.curves import Curve, FinalAlphas, Panel, TableCurves
from matched.report.figure_list import DrawnFigure
from matched.report.summary import HEADER, NUMBERS, entry_row
from matched.report.verdicts import Judged
from matched.status import State
from matched.table_formats import TEXT_COLUMNS
from matched.wording import counted

TEMPLATES = Path(__file__).parent / "templates"
FIRST_ROWS = 200
"""Rows that a table of the page shows at first."""
LISTED = 500
"""Most runs in a table's list of runs, unless more have failed, are damaged or are at work."""
RUN_FILES = ("config.json", "environment.json", "result.json", "metrics.jsonl", "log.txt")


@dataclass(frozen=True, kw_only=True)
class Column:
    """Heading of a sortable column."""

    name: str
    is_number: bool


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of the table of all results.

    Attributes:
        texts: by column.
        values: by column, the unrounded number behind a text, or None.
        problem: True if a run failed or is damaged, or the pair is not matched.
        missing: True if a run is not finished.
    """

    anchor: str
    scale: str
    texts: tuple[str, ...]
    values: tuple[float | None, ...]
    problem: bool
    missing: bool


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table at one scale, as the page shows it."""

    table: TableResults
    counts: str
    attention: bool
    header: Sequence[Column]
    charts: Sequence[tuple[str, Sequence[Markup], int]]
    """(row's label, its charts, number of trainings that are not drawn)."""
    alphas: Sequence[Markup]
    damaged_curves: Sequence[str]
    runs: Sequence[Mapping[str, Any]]
    unlisted: int
    """Number of runs that are not in the list."""


def write_page(
    results: Results,
    scorecard: Sequence[Sequence[Judged]],
    figures: Sequence[DrawnFigure],
    folder: Path,
) -> Path:
    """Write index.html to ``folder`` and return its path.

    Args:
        figures: whose files are in ``folder`` or below it.

    Raises:
        OSError: if the folder cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code
    text = environment.get_template("index.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
        counted=counted,
        first_rows=FIRST_ROWS,
        results=results,
        scorecard=scorecard,
        mixed=mixed_over_tables(results.tables),
        figures=[
            {"figure": figure, "files": {
                path.suffix[1:]: quote(path.relative_to(folder).as_posix())
                for path in figure.paths
            }}
            for figure in figures
        ],
        columns=[Column(name=name, is_number=name in NUMBERS) for name in HEADER],
        rows=[row for table in results.tables for row in _result_rows(table)],
        scales=list(dict.fromkeys(table.scale.name for table in results.tables)),
        sections=[_section(table, folder) for table in results.tables],
        not_run=[(recipe.title, recipe.caption, recipe.arguments(scale))
                 for recipe, scale in results.not_run],
        created=time.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
    path = folder / "index.html"
    write_text(path, text)
    return path


def code(text: str) -> Markup:
    """Return text as HTML, with what is between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _result_rows(table: TableResults) -> Iterator[ResultRow]:
    for entry in table.summary.entries:
        printed = entry.printed.get(entry.metric.key)
        values = {
            "ours": entry.ours.mean,
            "Δ": entry.delta,
            "paper": printed,
            "paper Δ": entry.printed_delta,
        }
        states = entry.ours.states
        failed = State.FAILED in states or State.DAMAGED in states
        yield ResultRow(
            anchor=anchor(table),
            scale=table.scale.name,
            texts=entry_row(table, entry),
            values=tuple(values.get(name) for name in HEADER),
            problem=failed or entry.matched == "no",
            missing=not all(state.finished for state in states),
        )


def anchor(table: TableResults) -> str:
    """Return the id of a table's section."""
    return quote(table.name, safe="")


def _section(table: TableResults, folder: Path) -> Section:
    drawn = curves.read_curves(table.plan)
    runs = _listed(table.plan.runs)
    return Section(
        table=table,
        counts=_counts(table),
        attention=bool(table.warnings or drawn.damaged),
        header=[Column(name=name, is_number=index > 0 and name not in (*TEXT_COLUMNS, "matched"))
                for index, name in enumerate(table.summary.header)],
        charts=_charts(table, drawn),
        alphas=[Markup(chart) for chart in _alpha_charts(table, drawn.alphas)],
        damaged_curves=drawn.damaged,
        runs=[_run(table, planned, folder) for planned in runs],
        unlisted=len(table.plan.runs) - len(runs),
    )  # fmt: skip


def _listed(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return ``LISTED`` runs, and all that need attention: a browser takes seconds for 10,000."""
    usual = {State.NEW, State.DONE, State.DIVERGED}
    return [
        planned
        for number, planned in enumerate(runs)
        if number < LISTED or planned.status.state not in usual
    ]


def _counts(table: TableResults) -> str:
    """Return the number of runs in each state: "8 runs: 7 done, 1 failed"."""
    counts = [f"{count} {state}" for state in State if (count := table.count(state))]
    return f"{counted(len(table.plan.runs), 'run')}: {', '.join(counts)}"


def _charts(table: TableResults, drawn: TableCurves) -> list[tuple[str, list[Markup], int]]:
    rows: dict[str, list[Markup]] = {}
    for panel in drawn.panels:
        rows.setdefault(panel.row, []).append(Markup(_loss_chart(table, panel)))
    return [
        (table.recipe.label(row, table.scale), charts, drawn.hidden.get(row, 0))
        for row, charts in rows.items()
    ]


def _loss_chart(table: TableResults, panel: Panel) -> str:
    title = table.recipe.label(panel.row, table.scale)
    if panel.need:
        title = f"{title} · {panel.need}"
    styles = _styles(table)
    return svg.line_chart(
        title,
        [
            svg.Series(label=_name(curve), style=styles[curve.arm], x=curve.steps, y=curve.losses)
            for curve in panel.curves
        ],
        x_label="step",
        y_label="training loss",
    )


def _alpha_charts(table: TableResults, alphas: Sequence[FinalAlphas]) -> Iterator[str]:
    """Yield a chart of each row: α against the number of the layer."""
    styles = _styles(table)
    by_row: dict[str, list[FinalAlphas]] = {}
    for one in alphas:
        by_row.setdefault(one.row, []).append(one)
    for row, of_row in by_row.items():
        series = [
            svg.Series(
                label=_name(one),
                style=styles[one.arm],
                x=range(1, len(one.alphas) + 1),
                y=list(one.alphas.values()),
            )
            for one in of_row
        ]
        yield svg.line_chart(
            table.recipe.label(row, table.scale),
            series,
            x_label="DyT layer",
            y_label="α",
            points=True,
        )


def _styles(table: TableResults) -> dict[str, int]:
    return {arm.name: index for index, arm in enumerate(table.recipe.table.arms)}


def _name(curve: Curve | FinalAlphas) -> str:
    return f"{curve.arm}, seed {curve.seed}"


def _run(table: TableResults, planned: PlannedRun, folder: Path) -> dict[str, Any]:
    """Return a line of the list of runs, with links to the files that a run in its state has."""
    state = planned.status.state
    started = state is not State.NEW
    url = quote(os.path.relpath(planned.directory.path, folder).replace(os.sep, "/"))
    has = RUN_FILES if state.finished else [name for name in RUN_FILES if name != "result.json"]
    return {
        "title": planned.title,
        "state": str(state),
        "reason": planned.status.reason,
        "signature": planned.run.signature,
        "url": url if started else "",
        "files": has if started else (),
        "commit": table.commits.get(planned.run.signature) or MISSING,
    }
