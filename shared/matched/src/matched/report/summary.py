"""Summary of all tables as Markdown, CSV, LaTeX and JSON: one record per row, arm and metric."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matched.entries import Entry, format_finished_count, format_ours
from matched.files import write_text
from matched.formatting import MISSING, format_delta, format_printed_cell, metric_name
from matched.report.collect import Results, TableResults
from matched.table_formats import LATEX, escape_markdown

HEADER = (
    "table",
    "scale",
    "model",
    "metric",
    "arm",
    "ours",
    "Δ",
    "paper",
    "paper Δ",
    "runs",
    "matched",
)
NUMBERS = HEADER[5:10]
"""Columns of numbers; the others are text."""
COLUMNS = (
    "publication",
    "table",
    "scale",
    "data",
    "row",
    "model",
    "arm",
    "metric",
    "unit",
    "direction",
    "mean",
    "std",
    "seeds_with_value",
    "seeds_planned",
    "seeds_diverged",
    "delta",
    "paper",
    "paper_delta",
    "matched",
    "best",
    "states",
    "changes",
    "signatures",
)
"""Columns of summary.csv and keys of summary.json: those of a table's own CSV, and its paper."""


def write_summary(results: Results, stem: Path) -> list[Path]:
    """Write ``stem``.md, .csv, .tex and .json and return the four paths.

    Raises:
        OSError: if the folder cannot be written.
    """
    records = list(_records(results))
    rows = [row for table in results.tables for row in table_rows(table)]
    texts = {
        ".md": _markdown(results, rows),
        ".csv": _csv(records),
        ".tex": _latex(rows),
        ".json": _json(records),
    }
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        write_text(path, text)
        paths.append(path)
    return paths


def _records(results: Results) -> Iterator[dict[str, Any]]:
    for table in results.tables:
        for record in table.summary.records:
            yield {"publication": table.publication, **record}


def table_rows(table: TableResults) -> list[tuple[str, ...]]:
    """Format the entries of a table, one row of text each; ``HEADER`` names the columns."""
    return [entry_row(table, entry) for entry in table.summary.entries]


def entry_row(table: TableResults, entry: Entry) -> tuple[str, ...]:
    """Format one entry; ``HEADER`` names the columns."""
    base_printed = table.recipe.printed_cell(entry.row, table.recipe.table.baseline.name)
    return (
        table.recipe.title,
        table.scale.name,
        table.recipe.label(entry.row, table.scale),
        metric_name(entry.metric),
        table.recipe.arm_label(entry.arm, table.scale),
        format_ours(entry),
        format_delta(entry.metric, entry.base_mean, entry.delta),
        format_printed_cell(entry.metric, entry.printed) if entry.printed else MISSING,
        format_delta(entry.metric, base_printed.get(entry.metric.key), entry.printed_delta),
        format_finished_count([entry]),
        entry.matched,
    )


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _json(records: Sequence[Mapping[str, Any]]) -> str:
    """Format as a JSON list; a number that is not finite becomes null, which every reader takes."""
    plain = [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        for record in records
    ]
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(results: Results, rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in NUMBERS else ":---" for name in HEADER]
    lines = ["### Results of all tables", ""]
    if rows:
        escaped = ([escape_markdown(cell) for cell in row] for row in rows)
        lines += ["| " + " | ".join(cells) + " |" for cells in (HEADER, rule, *escaped)]
    else:
        lines.append("No table has results yet.")
    warnings = [f"{table.name}: {text}" for table in results.tables for text in table.warnings]
    notes = [*results.warnings, *warnings]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _latex(rows: Sequence[Sequence[str]]) -> str:
    """Format as a longtable, which breaks over pages; needs the packages longtable and booktabs."""
    columns = "".join("r" if name in NUMBERS else "l" for name in HEADER)
    header = " & ".join(name.translate(LATEX) for name in HEADER) + r" \\"
    lines = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"% \usepackage{longtable,booktabs}",
            rf"\begin{{longtable}}{{{columns}}}",
            r"\caption{Results of all tables; Δ is each arm minus the baseline.}\\".translate(
                {ord("Δ"): r"$\Delta$"}
            ),
            r"\toprule",
            header,
            r"\midrule",
            r"\endhead",
            *lines,
            r"\bottomrule",
            r"\end{longtable}",
            "",
        ]
    )
