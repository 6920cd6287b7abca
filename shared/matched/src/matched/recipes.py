"""Recipes: discovery, loading and checking of a paper's tables and of users' own files.

Users name a paper's recipe, ``recipes/<paper>/tableNN.py``, by its paper's prefix in paper.toml and
its number: "table1", "iclr-table1". Their own recipe is any importable file: "my_table.py".
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import keyword
import os
import re
import shlex
import sys
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from matched import projects
from matched.errors import one_line
from matched.files import read_text
from matched.matching import check_matched
from matched.run import Run
from matched.table import SCALES, Metric, Scale, Table
from matched.wording import match_name, unknown_name

T = TypeVar("T")
MAX_CHANGES_IN_NAME = 80
"""Most characters of changed fields in the names of results."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table as the paper prints it, from paper.toml, the only place with the paper's numbers.

    Attributes:
        rows: row key → {"label": …, arm name: {metric key: value, …}, …}.
        axes: what "rows" and "arms" are, if they are not models and norm layers.
    """

    title: str
    caption: str
    metrics: tuple[Metric, ...]
    rows: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, str] = field(default_factory=dict)

    def label(self, row: str) -> str:
        return str(self.rows[row]["label"])

    def cell(self, row: str, arm: str) -> Mapping[str, Any]:
        """Return the printed cell; empty if the paper has none."""
        cell: Mapping[str, Any] = self.rows[row].get(arm, {})
        return cell


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A loaded recipe: the table to run, and the table that the paper prints.

    Attributes:
        paper: None for a user's own table.
        project: the folder of site.toml, runs/ and results/.
        changes: config fields changed on the command line; see ``matched.overrides``.
        extra_arms: arms added on the command line; see ``matched.extra_arms``.
        python_path: folders from which jobs have to be able to import.
    """

    name: str
    path: Path
    table: Table
    paper: PaperTable | None
    project: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    extra_arms: tuple[str, ...] = ()
    python_path: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        return self.paper.title if self.paper else self.table.title or self.name

    @property
    def caption(self) -> str:
        return self.paper.caption if self.paper else f"Own table, {self.path.name}"

    def label(self, row: str, scale: Scale | None = None) -> str:
        """Return the name of a row in print, at a scale if one is given."""
        if scale and row in scale.labels:
            return scale.labels[row]
        return self.paper.label(row) if self.paper else self.table.labels.get(row, row)

    def arm_label(self, arm: str, scale: Scale) -> str:
        """Return the name of an arm at a scale, with the paper's in parentheses if it differs."""
        return f"{scale.labels[arm]} ({arm})" if arm in scale.labels else arm

    def printed_cell(self, row: str, arm: str) -> Mapping[str, Any]:
        """Return the cell that the paper prints; empty if there is none."""
        return self.paper.cell(row, arm) if self.paper else {}

    def scale(self, name: str) -> Scale:
        """Return the scale of that name.

        Raises:
            ValueError: for a scale that this recipe does not have.
        """
        by_name: dict[str, Scale] = {scale.name: scale for scale in self.table.scales}
        return by_name[match_name(name, by_name, f"scale of {self.name}")]

    def metrics(self, scale: Scale) -> tuple[Metric, ...]:
        return scale.metrics or (self.paper.metrics if self.paper else ())

    def results_name(self, scale: Scale) -> str:
        """Return the file name, without suffix, of results, with added arms and changed fields."""
        name = f"{'+'.join([self.name, *self.extra_arms])}.{scale.name}"
        if not self.changes:
            return name
        changes = ",".join(self.change_texts)
        safe = re.sub(r"[^\w.=+,-]", "_", changes)
        if safe != changes or len(safe) > MAX_CHANGES_IN_NAME:
            digest = hashlib.sha256(changes.encode()).hexdigest()[:8]
            safe = f"{safe[:MAX_CHANGES_IN_NAME]}-{digest}"
        return f"{name}.{safe}"

    @property
    def change_texts(self) -> list[str]:
        """The changed fields as "lr=0.001", as ``--set`` takes them."""
        return [f"{path}={value}" for path, value in self.changes.items()]

    def arguments(self, scale: Scale) -> str:
        """Return what to type after ``matched <command>`` for this table at a scale."""
        name = self.name if self.paper else os.path.relpath(self.path)
        changes = [word for text in self.change_texts for word in ("--set", text)]
        arms = [word for arm in self.extra_arms for word in ("--with", arm)]
        return shlex.join([name, "--scale", scale.name, *arms, *changes])


@cache
def paper_numbers(project: Path | None = None) -> dict[str, Any]:
    """Return the content of recipes/paper.toml: paper → its venue, prefix and tables."""
    path = (project or projects.root()) / "recipes" / projects.PAPER_FILE
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


@cache
def available(project: Path | None = None) -> dict[str, Path]:
    """Return table name → recipe file for every recipe of the project."""
    paths = {}
    for paper, tables in paper_numbers(project).items():
        for path in sorted(((project or projects.root()) / "recipes" / paper).glob("table*.py")):
            if match := re.fullmatch(r"table(\d+)", path.stem):
                paths[f"{tables['prefix']}table{int(match[1])}"] = path
    return paths


def load(name: str) -> Recipe:
    """Load the recipe of a table and check that its arms are matched at every scale.

    Args:
        name: of a table of the project, or the path of a user's own recipe, which ends in ".py".

    Raises:
        ValueError: for an unknown table, a recipe that cannot be imported, a row or arm that
            paper.toml or the table does not have, or arms that are not matched
            (``matched.matching.check_matched``).
    """
    if name.endswith(".py"):
        return _load_file(Path(os.path.abspath(os.path.expanduser(name))))
    name = match_name(name, available(), "table")
    path = available()[name]
    with _recipes_importable(projects.root()):
        module = ".".join(path.relative_to(projects.root()).with_suffix("").parts)
        table = _attribute(module, path, "TABLE", Table)
        scales = [*_scales_beside(path), *table.scales]
    try:
        table = dataclasses.replace(table, scales=tuple(scales))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    recipe = Recipe(
        name=name, path=path, table=table, paper=_paper_table(path), project=projects.root()
    )
    _check_recipe(recipe)
    return recipe


def load_constant(path: Path, name: str, kind: type[T]) -> T | None:
    """Return the constant ``name`` of a file in recipes/, such as its claims; None without a file.

    Raises:
        ValueError: if the file cannot be imported, or the constant is missing or of another type.
    """
    if not path.is_file():
        return None
    project = path.parent
    while project.name != "recipes":
        project = project.parent
    with _recipes_importable(project.parent):
        module = ".".join(path.relative_to(project.parent).with_suffix("").parts)
        return _attribute(module, path, name, kind)


def _load_file(path: Path) -> Recipe:
    """Load a user's own recipe, which needs no entry in paper.toml.

    Raises:
        ValueError: as ``load``, and for a file that does not exist, has the name of an installed
            module or of a table, or whose scales name no metrics.
    """
    if not path.is_file():
        raise ValueError(f"no such recipe file: {path}")
    project = projects.folder_of(path)
    in_project = projects.has_papers(project)
    for name, file in available(project).items() if in_project else ():
        if file == path and project == projects.root():
            return load(name)
        if name == path.stem.lower():
            raise ValueError(
                f"{path}: {name} is already a table, {file}, whose results it would overwrite; "
                "rename the file"
            )
    _check_module_name(path)
    # Jobs import from the same folders. They stay on the path for tasks that run in this process.
    folders = (path.parent, project) if in_project else (path.parent,)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules.pop(path.stem, None)
    with _recipes_importable(project):
        table = _attribute(path.stem, path, "TABLE", Table)
    recipe = Recipe(
        name=path.stem, path=path, table=table, paper=None, project=project, python_path=folders
    )
    _check_recipe(recipe)
    return recipe


def _check_module_name(path: Path) -> None:
    """Raise ValueError if the file cannot be imported under its name, or hides another module."""
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise ValueError(
            f"{path} cannot be imported as {path.stem!r}; rename it to letters, digits and _"
        )
    module = sys.modules.get(path.stem)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(path.stem)
    origin = spec.origin if spec is not None else None
    if origin is not None and Path(origin) != path:
        raise ValueError(f"{path} has the name of another Python module, {origin}; rename the file")


def _scales_beside(path: Path) -> Iterator[Scale]:
    """Scales of a table that have a page of their own: recipes/<paper>/smoke/table01.py.

    Raises:
        ValueError: for a page whose SCALE is not the scale that its folder is named after.
    """
    for name in SCALES:
        page = path.parent / name / path.name
        if page.is_file():
            module = ".".join(page.relative_to(projects.root()).with_suffix("").parts)
            scale = _attribute(module, page, "SCALE", Scale)
            if scale.name != name:
                raise ValueError(f"{page}: SCALE is the scale {scale.name!r}; expected {name!r}")
            yield scale


def _attribute(module_name: str, path: Path, name: str, kind: type[T]) -> T:
    """Import the recipe page ``path`` as ``module_name`` and return its attribute ``name``.

    Raises:
        ValueError: if the page cannot be imported, or the attribute is missing or of another type.
    """
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(_import_error(error, path)) from error
    value = getattr(module, name, None)
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} defines no {name}; a recipe ends with {name} = {kind.__name__}(...)"
        )
    return value


@contextmanager
def _recipes_importable(project: Path) -> Iterator[None]:
    """Let a recipe import from others: ``from recipes.cvpr2025.table01 import VIT_B``."""
    folder = str(project)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        # Do not keep the modules: the next recipe may be another project's.
        for name in [name for name in sys.modules if name.split(".")[0] == "recipes"]:
            del sys.modules[name]


def _import_error(error: BaseException, path: Path | str) -> str:
    """Format an error raised while importing a recipe, with the file and line of the recipe."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = Path(path).parent
    project = projects.enclosing(folder)
    recipe_frames = [
        frame
        for frame in frames
        if Path(frame.filename).parent == folder
        or (project and Path(frame.filename).is_relative_to(project / "recipes"))
    ]
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
        raise ValueError(f"{projects.PAPER_FILE} has no [{path.parent.name}.{key}] for {path}")
    printed = paper[key]
    return PaperTable(
        title=f"{paper['venue']}, Table {key.removeprefix('table')}",
        caption=printed["caption"],
        metrics=tuple(Metric(**metric) for metric in printed["metrics"]),
        rows=printed["rows"],
        axes=printed.get("axes", {}),
    )


def _check_recipe(recipe: Recipe) -> None:
    """Raise ValueError for unknown rows and arms, missing metrics and arms that are not matched."""
    arms = [arm.name for arm in recipe.table.arms]
    rows = [row for scale in recipe.table.scales for row in scale.runs]
    for row in recipe.table.labels:
        _check_key(row, rows, f"row of {recipe.name} in the labels of {recipe.path}")
    for scale in recipe.table.scales:
        for name in scale.labels:
            _check_key(
                name, [*rows, *arms], f"row or arm of {recipe.name} in the labels of a scale"
            )
        for row, runs in scale.runs.items():
            if recipe.paper:
                _check_key(row, recipe.paper.rows, f"row of {recipe.name} in {recipe.path}")
            for arm in () if isinstance(runs, Run) else runs:
                _check_key(arm, arms, f"arm of {recipe.name} in {recipe.path}")
                _check_search_metric(recipe, scale, row, arm)
        if not recipe.paper and not scale.metrics:
            raise ValueError(
                f"{recipe.path}: scale {scale.name} has no metrics; name those that the task "
                "returns: metrics=(Metric(key=..., label=..., direction=...),)"
            )
        for one in (scale, *scale.on_data.values()):
            try:
                check_matched(recipe.table, one)
            except ValueError as error:
                raise ValueError(f"{recipe.name} at {scale.name} scale, {error}") from None


def _check_search_metric(recipe: Recipe, scale: Scale, row: str, arm: str) -> None:
    """Raise ValueError if a search chooses by a metric that the scale lacks or cannot rank."""
    search = scale.search(row, arm)
    ranked = [metric.key for metric in recipe.metrics(scale) if metric.direction != "none"]
    if search is not None and search.metric not in ranked:
        raise ValueError(
            f"{recipe.path}: row {row}, arm {arm} at {scale.name} scale: the search chooses by "
            f"{search.metric!r}; expected a metric of the scale that is better higher or lower, "
            f"one of {', '.join(ranked) or 'none'}"
        )


def _check_key(key: str, known: Iterable[str], what: str) -> None:
    """Raise ValueError unless the key is known; unlike a user's input it must match exactly."""
    if key not in known:
        raise ValueError(unknown_name(key, list(known), what))
