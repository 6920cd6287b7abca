"""Figures that a project's papers have, by name; drawing them needs more libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matched import projects, recipes
from matched.figure import Figure
from matched.wording import match_name


@dataclass(frozen=True, kw_only=True)
class DrawnFigure:
    """A figure at one scale: its files, or why it cannot be drawn.

    Attributes:
        scale: empty for a figure without runs.
        paths: SVG, PNG and CSV; empty if it cannot be drawn.
        problem: one line; empty if it was drawn.
        missing_runs: True if the problem is only that runs are not finished.
        finding: what the drawn runs show, in a sentence; empty for most figures.
    """

    name: str
    scale: str
    caption: str
    paths: tuple[Path, ...]
    problem: str
    missing_runs: bool
    finding: str


def available(project: Path) -> dict[str, Figure]:
    """Return name → figure for all figures of the project: "fig2", "iclr-fig1"."""
    found: dict[str, Figure] = {}
    if not projects.has_papers(project):
        return found
    for paper, numbers in recipes.paper_numbers(project).items():
        path = project / "recipes" / paper / "figures.py"
        figures: Mapping[int, Any] = recipes.load_constant(path, "FIGURES", dict) or {}
        for number, figure in figures.items():
            found[f"{numbers['prefix']}fig{number}"] = figure
    return found


def find(project: Path, name: str) -> Figure:
    """Return the figure of that name.

    Raises:
        ValueError: listing the known figures.
    """
    known = available(project)
    return known[match_name(name, known, "figure")]


def own_recipes(project: Path) -> list[str]:
    """Return the recipe files that figures need besides the papers' tables, such as analyses."""
    names = [name for figure in available(project).values() for name in needed_recipes(figure)]
    return [name for name in dict.fromkeys(names) if name.endswith(".py")]


def needed_recipes(figure: Figure) -> list[str]:
    """Return the recipes whose runs a figure shows."""
    return list(dict.fromkeys(source.recipe for source in figure.sources))
