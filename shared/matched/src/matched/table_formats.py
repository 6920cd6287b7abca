"""Output formats of a summary table: terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from matched.files import write_text
from matched.formatting import MISSING
from matched.gallery import Gallery
from matched.search_layout import TriedValues
from matched.summary_table import SummaryTable

TEXT_COLUMNS = ("metric", "arm", "source")
"""Columns of text, in addition to the first."""


def print_table(table: SummaryTable, console: Console) -> None:
    """Print the table to the terminal; the paper's columns are dimmed."""
    grid = RichTable(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    for name, is_text in zip(table.header, _text_columns(table), strict=True):
        style = "dim" if name.startswith("paper") else None
        # On two lines, so that eight columns fit a terminal of 80 characters.
        heading = name.replace("paper ", "paper\n")
        grid.add_column(heading, justify="left" if is_text else "right", style=style, no_wrap=True)
    for row in table.rows:
        grid.add_row(*row)
    console.print(grid)
    if table.tried:
        _print_tried(table.tried, console)
    for note in table.notes:
        style = "bold red" if note in table.warnings else "dim"
        console.print(note, style=style, highlight=False)


def _print_tried(tried: TriedValues, console: Console) -> None:
    """Print all values that the searches tried; long lines are folded."""
    grid = RichTable(title="Values tried", title_justify="left", box=box.SIMPLE_HEAD)
    for name in tried.header:
        grid.add_column(name, overflow="fold")
    for row in tried.rows:
        grid.add_row(*row)
    console.print(grid)


def _text_columns(table: SummaryTable) -> list[bool]:
    """Return for each column whether it is left-aligned text; the others are numbers."""
    return [i == 0 or name in TEXT_COLUMNS for i, name in enumerate(table.header)]


def write_files(table: SummaryTable, stem: Path) -> list[Path]:
    """Write the table to ``stem``.md, .csv and .tex, trials to .tried.csv; return the paths."""
    texts = {".md": to_markdown(table), ".csv": to_csv(table), ".tex": to_latex(table)}
    if table.tried:
        texts[".tried.csv"] = _csv(table.tried.records)
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        write_text(path, text)
        paths.append(path)
    return paths


def to_markdown(table: SummaryTable) -> str:
    """Format as a Markdown table with notes and pictures below."""
    rule = [":---" if is_text else "---:" for is_text in _text_columns(table)]
    lines = [f"### {table.title}", "", table.caption + ".", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (table.header, rule, *table.rows)]
    lines += ["", *(f"- {note}" for note in table.notes)]
    lines += [*_tried(table.tried), *_pictures(table.gallery)]
    return "\n".join(lines) + "\n"


def _tried(tried: TriedValues | None) -> list[str]:
    """Return the lines of a heading and a table of all values tried, or none without a search."""
    if not tried:
        return []
    rule = [":---"] * len(tried.header)
    lines = ["| " + " | ".join(cells) + " |" for cells in (tried.header, rule, *tried.rows)]
    return ["", "#### Values tried", "", *lines]


def _pictures(gallery: Gallery) -> list[str]:
    """Return the lines of a heading and a table of pictures, or none if there are no pictures."""
    if not gallery.rows:
        return []
    arms = gallery.arms
    grid = [["model", *map(escape_markdown, arms)], [":---", *([":---:"] * len(arms))]]
    for row in gallery.rows:
        cells = (
            f"![{escape_markdown(f'{row.title}, {arm}')}]({row.paths[arm]})"
            if arm in row.paths
            else MISSING
            for arm in arms
        )
        grid.append([escape_markdown(row.title), *cells])
    return ["", "#### Pictures", "", *("| " + " | ".join(cells) + " |" for cells in grid)]


def escape_markdown(text: str) -> str:
    """Escape the characters that would end a table cell or the text of a picture."""
    return re.sub(r"([\\|\[\]])", r"\\\1", text)


def to_csv(table: SummaryTable) -> str:
    """Format as CSV with one line per row, metric and arm."""
    return _csv(table.records)


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Format records with equal keys as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "&": r"\&",
        "%": r"\%",
        "_": r"\_",
        "#": r"\#",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "×": r"$\times$",
        "·": r"$\cdot$",
        "β": r"$\beta$",
        "γ": r"$\gamma$",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "→": r"$\rightarrow$",
        "—": "---",
        "α": r"$\alpha$",
        "σ": r"$\sigma$",
        "≈": r"$\approx$",
    }
)


def to_latex(table: SummaryTable) -> str:
    """Format as a booktabs table with the notes in its caption."""
    columns = "".join("l" if is_text else "r" for is_text in _text_columns(table))
    lines = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in table.rows]
    header = " & ".join(cell.translate(LATEX) for cell in table.header) + r" \\"
    caption = " ".join([table.caption + ".", *table.notes]).translate(LATEX)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )
