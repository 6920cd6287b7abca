"""Recipes: discovery, loading and checking of ``recipes/<paper>/tableNN.py``.

Users name a recipe by its paper's prefix in paper.toml and its number: "table1", "iclr-table1".
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from matched.errors import one_line
from matched.files import read_text
from matched.matching import check_matched
from matched.run import Run
from matched.table import SCALES, Metric, Scale, Table

T = TypeVar("T")
PAPER_FILE = "paper.toml"


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table as the paper prints it, from paper.toml, the only place with the paper's numbers.

    Attributes:
        rows: row key → {"label": …, arm name: {metric key: value, …}, …}.
    """

    title: str
    caption: str
    metrics: tuple[Metric, ...]
    rows: Mapping[str, Mapping[str, Any]]

    def label(self, row: str) -> str:
        return str(self.rows[row]["label"])

    def cell(self, row: str, arm: str) -> Mapping[str, Any]:
        """Return the printed cell; empty if the paper has none."""
        cell: Mapping[str, Any] = self.rows[row].get(arm, {})
        return cell


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A loaded recipe: the table to run, and the table that the paper prints."""

    name: str
    path: Path
    table: Table
    paper: PaperTable

    def scale(self, name: str) -> Scale:
        """Return the scale of that name.

        Raises:
            ValueError: for a scale that this recipe does not have.
        """
        by_name: dict[str, Scale] = {scale.name: scale for scale in self.table.scales}
        return by_name[match_name(name, by_name, f"scale of {self.name}")]

    def metrics(self, scale: Scale) -> tuple[Metric, ...]:
        return scale.metrics or self.paper.metrics


def match_name(name: str, known: Iterable[str], what: str) -> str:
    """Return the known name that equals ``name`` up to upper and lower case.

    Raises:
        ValueError: listing the known names, nearest first; ``what`` says what they are names of.
    """
    known = list(known)
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    raise ValueError(_unknown_name(name, known, what))


def _unknown_name(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.0)
    return f"unknown {what}: {name!r}; known, nearest first: {', '.join(near) or 'none'}"


@cache
def root() -> Path:
    """Return the project's folder: the first with recipes/paper.toml, from here upwards.

    The search starts at the current folder, or at MATCHED_ROOT if it is set.

    Raises:
        ValueError: if no folder has the file.
    """
    start = Path(os.environ.get("MATCHED_ROOT") or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / "recipes" / PAPER_FILE).is_file():
            return folder
    raise ValueError(
        f"no recipes/{PAPER_FILE} in {start} or above it; "
        "run this inside the repository, or set MATCHED_ROOT to it"
    )


@cache
def paper_numbers() -> dict[str, Any]:
    """Return the content of recipes/paper.toml: paper → its venue, prefix and tables."""
    path = root() / "recipes" / PAPER_FILE
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


@cache
def available() -> dict[str, Path]:
    """Return table name → recipe file for every recipe of the project."""
    paths = {}
    for paper, tables in paper_numbers().items():
        for path in sorted((root() / "recipes" / paper).glob("table*.py")):
            if match := re.fullmatch(r"table(\d+)", path.stem):
                paths[f"{tables['prefix']}table{int(match[1])}"] = path
    return paths


def load(name: str) -> Recipe:
    """Load the recipe of a table and check that its arms are matched at every scale.

    Raises:
        ValueError: for an unknown table, a recipe that cannot be imported, a row or arm that
            paper.toml or the table does not have, or arms that are not matched
            (``matched.matching.check_matched``).
    """
    name = match_name(name, available(), "table")
    path = available()[name]
    with _recipes_importable():
        table = _attribute(path, "TABLE", Table)
        scales = [*_scales_beside(path), *table.scales]
    try:
        table = dataclasses.replace(table, scales=tuple(scales))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    recipe = Recipe(name=name, path=path, table=table, paper=_paper_table(path))
    _check_recipe(recipe)
    return recipe


def _scales_beside(path: Path) -> Iterator[Scale]:
    """Scales of a table that have a page of their own: recipes/<paper>/smoke/table01.py.

    Raises:
        ValueError: for a page whose SCALE is not the scale that its folder is named after.
    """
    for name in SCALES:
        page = path.parent / name / path.name
        if page.is_file():
            scale = _attribute(page, "SCALE", Scale)
            if scale.name != name:
                raise ValueError(f"{page}: SCALE is the scale {scale.name!r}; expected {name!r}")
            yield scale


def _attribute(path: Path, name: str, kind: type[T]) -> T:
    """Import the recipe page ``path`` and return its attribute ``name``.

    Raises:
        ValueError: if the page cannot be imported, or the attribute is missing or of another type.
    """
    module_name = ".".join(path.relative_to(root()).with_suffix("").parts)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(_import_error(error, path)) from error
    value = getattr(module, name, None)
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} defines no {name}; a recipe ends with {name} = {kind.__name__}(...)"
        )
    return value


@contextmanager
def _recipes_importable() -> Iterator[None]:
    """Let a recipe import from others: ``from recipes.cvpr2025.table01 import VIT_B``."""
    folder = str(root())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        # Do not keep the modules: the next recipe may be another project's.
        for name in [name for name in sys.modules if name.split(".")[0] == "recipes"]:
            del sys.modules[name]


def _import_error(error: Exception, path: Path | str) -> str:
    """Format an error raised while importing a recipe, with the file and line of the recipe."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = str(root() / "recipes")
    recipe_frames = [frame for frame in frames if frame.filename.startswith(folder)]
    path, line = (
        (recipe_frames[-1].filename, recipe_frames[-1].lineno) if recipe_frames else (path, 1)
    )
    if isinstance(error, SyntaxError):
        path, line = error.filename or path, error.lineno or line
    return f"{path}, line {line}: {one_line(error)}"


def _paper_table(path: Path) -> PaperTable:
    paper = paper_numbers()[path.parent.name]
    key = f"table{int(path.stem.removeprefix('table'))}"
    if key not in paper:
        raise ValueError(f"{PAPER_FILE} has no [{path.parent.name}.{key}] for {path}")
    printed = paper[key]
    return PaperTable(
        title=f"{paper['venue']}, Table {key.removeprefix('table')}",
        caption=printed["caption"],
        metrics=tuple(Metric(**metric) for metric in printed["metrics"]),
        rows=printed["rows"],
    )


def _check_recipe(recipe: Recipe) -> None:
    """Raise ValueError for unknown rows and arms, and for arms that are not matched."""
    arms = [arm.name for arm in recipe.table.arms]
    for scale in recipe.table.scales:
        for row, runs in scale.runs.items():
            _check_key(row, recipe.paper.rows, f"row of {recipe.name} in {recipe.path}")
            for arm in () if isinstance(runs, Run) else runs:
                _check_key(arm, arms, f"arm of {recipe.name} in {recipe.path}")
        try:
            check_matched(recipe.table, scale)
        except ValueError as error:
            raise ValueError(f"{recipe.name} at {scale.name} scale, {error}") from None


def _check_key(key: str, known: Iterable[str], what: str) -> None:
    """Raise ValueError unless the key is known; unlike a user's input it must match exactly."""
    if key not in known:
        raise ValueError(_unknown_name(key, list(known), what))
