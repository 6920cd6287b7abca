"""Find and load recipes: ``recipes/<paper>/table01.py`` becomes the table that a user names.

A paper's tables are called by the prefix that paper.toml gives it: "table1", "iclr-table1".
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

from matched.matching import check_matched
from matched.run import Run
from matched.table import SCALES, Metric, Scale, Table

T = TypeVar("T")
NUMBERS = "paper.toml"


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """What the paper prints: its numbers stand in paper.toml and nowhere else.

    ``rows`` maps row key → {"label": …, arm name: {metric key: value, …}, …}.
    """

    title: str
    caption: str
    metrics: tuple[Metric, ...]
    rows: Mapping[str, Mapping[str, Any]]

    def label(self, row: str) -> str:
        return self.rows[row]["label"]

    def cell(self, row: str, arm: str) -> Mapping[str, Any]:
        """The printed cell; empty where the paper has none."""
        return self.rows[row].get(arm, {})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A loaded recipe: the table as we run it and as the paper prints it."""

    name: str
    path: Path
    table: Table
    paper: PaperTable

    def scale(self, name: str) -> Scale:
        """
        Raises:
            ValueError: for a scale that this recipe does not have.
        """
        by_name = {scale.name: scale for scale in self.table.scales}
        return by_name[pick(name, by_name, f"scale of {self.name}")]

    def metrics(self, scale: Scale) -> tuple[Metric, ...]:
        return scale.metrics or self.paper.metrics


def pick(name: str, known: Iterable[str], what: str) -> str:
    """``name`` if it is known, whatever its case.

    Raises:
        ValueError: naming the known ones, nearest first.
    """
    known = list(known)
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    raise ValueError(_unknown(name, known, what))


def _unknown(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.0)
    return f"unknown {what}: {name!r}; known, nearest first: {', '.join(near) or 'none'}"


@cache
def root() -> Path:
    """The project's folder: the one holding recipes/paper.toml, from here upwards.

    Raises:
        ValueError: where there is none.
    """
    start = Path(os.environ.get("MATCHED_ROOT") or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / "recipes" / NUMBERS).is_file():
            return folder
    raise ValueError(
        f"no recipes/{NUMBERS} in {start} or above it; "
        "run this inside the repository, or set MATCHED_ROOT to it"
    )


@cache
def numbers() -> dict[str, Any]:
    path = root() / "recipes" / NUMBERS
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


@cache
def available() -> dict[str, Path]:
    """Table name → recipe file, for every recipe that there is."""
    found = {}
    for paper, tables in numbers().items():
        for path in sorted((root() / "recipes" / paper).glob("table*.py")):
            if match := re.fullmatch(r"table(\d+)", path.stem):
                found[f"{tables['prefix']}table{int(match[1])}"] = path
    return found


def load(name: str) -> Recipe:
    """The recipe of the table called ``name``, its arms checked to be matched at every scale.

    Raises:
        ValueError: for an unknown table, or a recipe that contradicts itself or paper.toml.
    """
    name = pick(name, available(), "table")
    path = available()[name]
    with _importable_recipes():
        table = _attribute(path, "TABLE", Table)
        scales = [*_scales_beside(path), *table.scales]
    try:
        table = dataclasses.replace(table, scales=tuple(scales))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    recipe = Recipe(name=name, path=path, table=table, paper=_paper_table(path))
    _check(recipe)
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
        raise ValueError(_place(error, path)) from error
    value = getattr(module, name, None)
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} defines no {name}; a recipe ends with {name} = {kind.__name__}(...)"
        )
    return value


@contextmanager
def _importable_recipes() -> Iterator[None]:
    """Make recipes importable, also by each other (``from recipes.cvpr2025 import table01``)."""
    folder = str(root())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        # Not to be found again: the next recipe may be another project's.
        for name in [name for name in sys.modules if name.split(".")[0] == "recipes"]:
            del sys.modules[name]


def _place(error: Exception, path: Path | str) -> str:
    """What is wrong with a recipe that cannot be loaded, and in which line of which recipe."""
    frames = traceback.extract_tb(error.__traceback__)
    known = str(root() / "recipes")
    ours = [frame for frame in frames if frame.filename.startswith(known)]
    path, line = (ours[-1].filename, ours[-1].lineno) if ours else (path, 1)
    if isinstance(error, SyntaxError):
        path, line = error.filename, error.lineno
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{path}, line {line}: {kind}{error}"


def _paper_table(path: Path) -> PaperTable:
    paper = numbers()[path.parent.name]
    key = f"table{int(path.stem.removeprefix('table'))}"
    if key not in paper:
        raise ValueError(f"{NUMBERS} has no [{path.parent.name}.{key}] for {path}")
    printed = paper[key]
    return PaperTable(
        title=f"{paper['venue']}, Table {key.removeprefix('table')}",
        caption=printed["caption"],
        metrics=tuple(Metric(**metric) for metric in printed["metrics"]),
        rows=printed["rows"],
    )


def _exact(key: str, known: Iterable[str], what: str) -> None:
    """A key of a recipe has to be right to the letter: code looks it up."""
    if key not in known:
        raise ValueError(_unknown(key, list(known), what))


def _check(recipe: Recipe) -> None:
    arms = [arm.name for arm in recipe.table.arms]
    for scale in recipe.table.scales:
        for row, runs in scale.runs.items():
            _exact(row, recipe.paper.rows, f"row of {recipe.name} in {recipe.path}")
            for arm in () if isinstance(runs, Run) else runs:
                _exact(arm, arms, f"arm of {recipe.name} in {recipe.path}")
        try:
            check_matched(recipe.table, scale)
        except ValueError as error:
            raise ValueError(f"{recipe.name} at {scale.name} scale, {error}") from None
