"""A summary table as terminal text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from matched.files import write_text
from matched.gallery import Gallery
from matched.summary_table import MISSING, SummaryTable

TEXTS = ("metric", "arm")
"""Columns of words, besides the first."""


def show(table: SummaryTable, console: Console) -> None:
    """Print to the terminal; the columns of the paper are dimmed."""
    grid = RichTable(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    for i, name in enumerate(table.header):
        style = "dim" if name.startswith("paper") else None
        # The word takes a line of its own, so that eight columns fit a terminal of 80.
        heading = name.replace("paper ", "paper\n")
        side = "left" if i == 0 or name in TEXTS else "right"
        grid.add_column(heading, justify=side, style=style, no_wrap=True)
    for row in table.rows:
        grid.add_row(*row)
    console.print(grid)
    for note in table.notes:
        told = ("NOT MATCHED", "Damaged", "Failed", "Warning")
        style = "bold red" if note.startswith(told) else "dim"
        console.print(note, style=style, highlight=False)


def write(table: SummaryTable, stem: Path) -> list[Path]:
    """Write ``stem``.md, .csv and .tex."""
    texts = {".md": markdown(table), ".csv": comma_separated(table), ".tex": latex(table)}
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        write_text(path, text)
        paths.append(path)
    return paths


def markdown(table: SummaryTable) -> str:
    rule = [":---" if i == 0 or name in TEXTS else "---:" for i, name in enumerate(table.header)]
    lines = [f"### {table.title}", "", table.caption + ".", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (table.header, rule, *table.rows)]
    lines += ["", *(f"- {note}" for note in table.notes), *_pictures(table.gallery)]
    return "\n".join(lines) + "\n"


def _pictures(gallery: Gallery) -> list[str]:
    """A heading and a table whose cells are pictures; nothing where there are none."""
    if not gallery.lines:
        return []
    grid = [["model", *map(_plain, gallery.arms)], [":---", *([":---:"] * len(gallery.arms))]]
    for line in gallery.lines:
        cells = (
            f"![{_plain(f'{line.title}, {arm}')}]({line.paths[arm]})"
            if arm in line.paths
            else MISSING
            for arm in gallery.arms
        )
        grid.append([_plain(line.title), *cells])
    return ["", "#### Pictures", "", *("| " + " | ".join(cells) + " |" for cells in grid)]


def _plain(text: str) -> str:
    """Text that neither ends a cell nor the words of a picture."""
    return re.sub(r"([\\|\[\]])", r"\\\1", text)


def comma_separated(table: SummaryTable) -> str:
    """One line per row, metric and arm."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
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
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "→": r"$\rightarrow$",
        "—": "---",
        "α": r"$\alpha$",
        "σ": r"$\sigma$",
    }
)


def latex(table: SummaryTable) -> str:
    """A booktabs table; the notes become its caption."""
    columns = "".join("l" if i == 0 or n in TEXTS else "r" for i, n in enumerate(table.header))
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
