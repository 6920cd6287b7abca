"""Export of training curves to TensorBoard: one folder with event files per run of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from matched.files import read_json_lines, unique_file_names
from matched.planning import Plan
from matched.run import Run
from matched.run_directory import RunFiles
from matched.table import Cell, runs_with_needs

EVENT_FILES = "events.out.tfevents.*"
"""Names of the files that TensorBoard reads; an export deletes no others."""


class Writer(Protocol):
    """The methods of ``tensorboard.summary.Writer`` that an export uses."""

    def add_scalar(
        self, tag: str, data: float, step: int, *, wall_time: float | None = None
    ) -> None: ...

    def close(self) -> None: ...


def tensorboard_writer() -> Callable[[str], Writer]:
    """Return TensorBoard's writer of event files, which takes the folder to write to.

    Raises:
        ValueError: if TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer as TensorBoardWriter
    except ImportError as error:
        raise ValueError(
            f"TensorBoard cannot be imported ({error}); install it with "
            "`pip install tensorboard`, or as the extra matched[tensorboard]"
        ) from None
    writer: Callable[[str], Writer] = TensorBoardWriter
    return writer


def write_event_files(
    plan: Plan, folder: Path, open_writer: Callable[[str], Writer]
) -> tuple[list[Path], list[str]]:
    """Write the curves of a table's runs to ``folder``, also of runs that are still training.

    A run's folder is ``<row>.<arm>.seed<k>``, and that of a run it needs has the need's name added;
    event files of an earlier export are replaced.

    Returns:
        The folders that were written, and the names of runs that have no metrics yet.

    Raises:
        DamagedFileError: if a line of a run's files is damaged.
        OSError: if the folder cannot be written.
    """
    folders, without = [], []
    for name, run in _named_runs(plan):
        scalars = list(_scalars(run))
        for old in (folder / name).glob(EVENT_FILES):
            old.unlink()
        if not scalars:
            without.append(name)
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        writer = open_writer(str(folder / name))
        try:
            for tag, value, step, wall_time in scalars:
                writer.add_scalar(tag, value, step, wall_time=wall_time)
        finally:
            writer.close()
        folders.append(folder / name)
    return folders, without


def _named_runs(plan: Plan) -> Iterator[tuple[str, RunFiles]]:
    """Yield every run once, with the name of the first cell that shows it, or else needs it."""
    rows = unique_file_names(plan.scale.runs)
    arms = unique_file_names(arm.name for arm in plan.recipe.table.arms)
    cells = {
        f"{rows[cell.row]}.{arms[cell.arm]}{_of_value(cell)}.seed{cell.seed}": cell.run
        for cell in plan.recipe.table.cells(plan.scale)
    }
    names: dict[Run, str] = {}
    for name, run in cells.items():
        names.setdefault(run, name)
    for name, run in cells.items():
        for path, need in runs_with_needs(run, name):
            names.setdefault(need, path.replace("/", "."))
    for planned in plan.runs:
        yield names[planned.run], planned.directory


def _of_value(cell: Cell) -> str:
    """Return the part of a folder's name that says which value of a search its run tries."""
    return f".{cell.value.replace('/', '-')}" if cell.value else ""


def _scalars(run: RunFiles) -> Iterator[tuple[str, float, int, float | None]]:
    """Yield tag, value, step and time (None if unknown) of all points of a run's curves.

    Tags are "train/<name>", "evaluation/<metric>", "alpha/<path>" and "performance/<name>". A value
    of null, which was not finite, becomes NaN.
    """
    times: dict[int, float] = {}
    for line in read_json_lines(run / "performance.jsonl", ("step", "time")):
        step, times[line["step"]] = line["step"], line["time"]
        for tag, value in _numbers(line, "performance"):
            yield tag, value, step, times[step]
    wall_time = None
    for line in read_json_lines(run / "metrics.jsonl", ("step",)):
        wall_time = times.get(line["step"], wall_time)
        for tag, value in _numbers(line, "train"):
            yield tag, value, line["step"], wall_time


def _numbers(line: dict[str, Any], group: str) -> Iterator[tuple[str, float]]:
    """Yield tag and value of the numbers in a line; those in a dict are grouped by its key."""
    for key, value in line.items():
        if isinstance(value, dict):
            yield from _numbers(value, key)
        elif key not in ("step", "epoch", "attempt", "time"):
            yield f"{group}/{key}", math.nan if value is None else value
