"""Projects: the folders with site.toml, runs/, results/ and recipes/paper.toml."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

PAPER_FILE = "paper.toml"


def has_papers(folder: Path) -> bool:
    """Return True if the folder is a project with tables of papers, not only a user's own."""
    return (folder / "recipes" / PAPER_FILE).is_file()


def enclosing(start: Path) -> Path | None:
    """Return the first folder with recipes/paper.toml, from ``start`` upwards."""
    return next(filter(has_papers, (start, *start.parents)), None)


@cache
def root() -> Path:
    """Return the project's folder: the first with recipes/paper.toml, from here upwards.

    The search starts at the current folder, or at MATCHED_ROOT if it is set.

    Raises:
        ValueError: if no folder has the file.
    """
    start = Path(os.environ.get("MATCHED_ROOT") or Path.cwd()).absolute()
    folder = enclosing(start)
    if folder is None:
        raise ValueError(
            f"no recipes/{PAPER_FILE} in {start} or above it; "
            "run this inside the repository, or set MATCHED_ROOT to it"
        )
    return folder


def folder_of(recipe_file: Path) -> Path:
    """Return the folder of site.toml, runs/ and results/ for a user's own recipe file.

    It is the project given by MATCHED_ROOT, else the one that contains the file, else the one that
    contains the current folder, and outside of any project the folder of the file.
    """
    if os.environ.get("MATCHED_ROOT"):
        return root()
    folder = recipe_file.parent
    return enclosing(folder) or enclosing(Path.cwd()) or folder


def current() -> Path:
    """Return the project's folder, or outside of any project the current folder."""
    if os.environ.get("MATCHED_ROOT"):
        return root()
    return enclosing(Path.cwd()) or Path.cwd()
