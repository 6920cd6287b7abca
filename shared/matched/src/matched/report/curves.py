"""Training curves of a table: the loss of each row's runs, and α of DyT layers, from metrics.jsonl.

Loss curves are thinned for display; ``matched export`` writes every point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matched.files import DamagedFileError, read_json_lines
from matched.planning import Plan
from matched.run import Run
from matched.table import Cell, runs_with_needs
from matched.task import is_metric_value

MAX_POINTS = 100
"""Points of a curve; longer ones are averaged over intervals of equal numbers of points."""
MAX_SEEDS = 5
"""Seeds of an arm that are drawn."""
MAX_PANELS = 4
"""Panels of a row; chains such as Table 6's have hundreds of trainings."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The training loss of one run; NaN where it was not finite."""

    arm: str
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Loss curves of all arms and seeds of one row, or of one run that the row needs.

    Attributes:
        need: name of the need, such as "pretrained"; empty for the row's own runs.
    """

    row: str
    need: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class FinalAlphas:
    """α of each DyT layer of one run after its last evaluation, in the order of the layers."""

    row: str
    arm: str
    seed: int
    alphas: Mapping[str, float]


@dataclass(kw_only=True)
class TableCurves:
    """The curves of a table.

    Attributes:
        damaged: what is wrong with files that cannot be read.
        hidden: row → number of further trainings that are not drawn.
    """

    panels: list[Panel] = field(default_factory=list)
    alphas: list[FinalAlphas] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)


def read_curves(plan: Plan) -> TableCurves:
    """Read the curves of all rows of a table, also of runs that are still training.

    Trials of searches are left out: the legend names arms, and a row may have dozens of trials.
    """
    curves = TableCurves()
    seeds = plan.scale.seeds[:MAX_SEEDS]
    cells: dict[str, list[Cell]] = {}
    for cell in plan.recipe.table.cells(plan.scale):
        if cell.seed in seeds and not cell.value:
            cells.setdefault(cell.row, []).append(cell)
    for row, row_cells in cells.items():
        trainings = _trainings(plan, row_cells)
        for need in list(trainings)[:MAX_PANELS]:
            _add_panel(curves, row, need, trainings[need])
        if len(trainings) > MAX_PANELS:
            curves.hidden[row] = len(trainings) - MAX_PANELS
    return curves


def _trainings(plan: Plan, cells: Sequence[Cell]) -> dict[str, list[tuple[Cell, Path]]]:
    """Return need → (cell, file) of its runs with metrics: the row's own first, then its needs.

    A need that is reached on several paths counts once, such as the pretraining of fine-tunings.
    """
    found: dict[str, list[tuple[Cell, Path]]] = {}
    for cell in cells:
        seen: set[Run] = set()
        for path, run in reversed(list(runs_with_needs(cell.run, ""))):
            file = plan.by_run[run].directory / "metrics.jsonl"
            if run not in seen and file.exists():
                found.setdefault(path.removeprefix("/"), []).append((cell, file))
            seen.add(run)
    return found


def _add_panel(
    curves: TableCurves, row: str, need: str, files: Sequence[tuple[Cell, Path]]
) -> None:
    """Read the files of a panel; α is kept of the row's own runs, or else of its first need."""
    drawn = []
    for cell, file in files:
        try:
            steps, losses, alphas = _read_file(file)
        except ValueError as error:
            curves.damaged.append(str(error))
            continue
        if steps:
            points = _thinned(steps, losses)
            drawn.append(Curve(arm=cell.arm, seed=cell.seed, steps=points[0], losses=points[1]))
        known = any((a.row, a.arm, a.seed) == (row, cell.arm, cell.seed) for a in curves.alphas)
        if alphas and not known:
            curves.alphas.append(FinalAlphas(row=row, arm=cell.arm, seed=cell.seed, alphas=alphas))
    if drawn:
        curves.panels.append(Panel(row=row, need=need, curves=tuple(drawn)))


def _read_file(file: Path) -> tuple[list[int], list[float], dict[str, float]]:
    """Return steps, losses and the last α by layer of a metrics.jsonl.

    Raises:
        DamagedFileError: if a line is damaged.
    """
    steps, losses = [], []
    alphas: dict[str, float] = {}
    for line in read_json_lines(file, ("step",)):
        step, loss, alpha = line["step"], line.get("loss"), line.get("alpha") or {}
        if (
            not isinstance(step, int)
            or not is_metric_value(loss)
            or not isinstance(alpha, dict)
            or not all(map(is_metric_value, alpha.values()))
        ):
            raise DamagedFileError(f"{file}: step {step!r} has values that are not numbers")
        if "loss" in line:
            steps.append(step)
            losses.append(math.nan if loss is None else float(loss))
        if alpha:
            alphas = {path: math.nan if a is None else a for path, a in alpha.items()}
    return steps, losses, alphas


def _thinned(
    steps: Sequence[int], losses: Sequence[float]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Average a curve over intervals, each at its last step, so that few points are left."""
    size = math.ceil(len(steps) / MAX_POINTS)
    parts = [range(start, min(start + size, len(steps))) for start in range(0, len(steps), size)]
    means = tuple(math.fsum(losses[i] for i in part) / len(part) for part in parts)
    return tuple(steps[part[-1]] for part in parts), means
