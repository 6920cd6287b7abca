"""Canvas of a figure: matplotlib's settings, colours and markers, and the files that are written.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; arms differ in their dashes
and markers as well. Text in SVG files is drawn as outlines, so no font has to be installed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from matched.files import atomic_write, write_text
from matched.planning import PlannedRun

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "^", "s", "D", "v", "P")
SETTINGS: Any = {  # matplotlib declares the keys as a list of literals
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "matched",  # the same data gives the same file
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, kw_only=True)
class PanelRuns:
    """The runs that one source of a figure names, by arm."""

    title: str
    runs: Mapping[str, PlannedRun]


def settings() -> AbstractContextManager[None]:
    """Apply ``SETTINGS``, in which figures are drawn and saved."""
    return matplotlib.rc_context(SETTINGS)


class Canvas:
    """One figure that is being drawn, with its data.

    Attributes:
        columns: header of the CSV.
        rows: its lines.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: Sequence[str] = ()
        self.rows: list[Sequence[Any]] = []
        self._figure: Any = None  # matplotlib's classes are only partly annotated

    def axes(self, rows: int, columns: int, *, width: float = 2.2, height: float = 2.0) -> Any:
        """Return an array (rows, columns) of axes, each ``width`` × ``height`` inches."""
        self._figure = Figure(figsize=(width * columns, height * rows))
        return self._figure.subplots(rows, columns, squeeze=False)

    def color_bar(self, image: Any, axis: Any, label: str) -> None:
        """Add the scale of an image's colours next to its axes."""
        self._figure.colorbar(image, ax=axis, label=label)

    def add_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        self.rows += rows

    def save(self, folder: Path) -> list[Path]:
        """Write the SVG, the PNG and the CSV to ``folder``; return their paths.

        Raises:
            OSError: if the folder cannot be written.
        """
        paths = self.save_pictures(folder)
        if self.rows:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(self.rows)
            paths.append(folder / f"{self.name}.csv")
            write_text(paths[-1], text.getvalue())
        return paths

    def save_pictures(self, folder: Path) -> list[Path]:
        """Write the SVG and the PNG to ``folder``; return their paths.

        Raises:
            OSError: if the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            path = folder / f"{self.name}{suffix}"
            with atomic_write(path) as temporary:
                self._figure.savefig(temporary, format=suffix[1:], metadata=metadata)
            paths.append(path)
        return paths
