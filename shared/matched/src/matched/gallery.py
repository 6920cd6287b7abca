"""Gallery of a table: pictures made by its runs, copied to its results folder, arms side by side.

A task names its picture in ``Outcome.details["picture"]``. A run that names none shows that of the
nearest run that it needs, such as its pretraining. Pictures are copied because results are
passed on without the runs folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matched.aggregation import group_by_cell
from matched.files import atomic_write, unique_file_names
from matched.planning import Plan, PlannedRun
from matched.table import Cell, runs_with_needs

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
"""First and last bytes of every complete PNG."""
COPY_NAME = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.seed-?\d+\.png")
"""Names of the copies that ``copy_pictures`` makes; it deletes no file with another name."""


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """The pictures of one row of the table, or of one seed of it if there are several seeds.

    Attributes:
        paths: arm → path of its picture, relative to the folder of the table's files.
    """

    title: str
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The pictures of a table, and ``notes`` on those that a run names but that cannot be shown."""

    arms: tuple[str, ...]
    rows: tuple[GalleryRow, ...]
    notes: tuple[str, ...]


NO_PICTURES = Gallery(arms=(), rows=(), notes=())


def copy_pictures(plan: Plan, folder: Path) -> Gallery:
    """Copy the pictures of a table's finished runs to ``folder`` and delete earlier copies there.

    Files with other names are left alone. Without pictures the folder is not created.

    Raises:
        OSError: if the folder cannot be written.
    """
    rows: dict[tuple[str, int], GalleryRow] = {}
    notes = []
    for cell, planned, name in _copy_names(plan):
        try:
            picture = _first_picture(plan, planned)
        except ValueError as error:
            notes.append(f"Picture left out: {cell}: {error}")
            continue
        if picture is None:
            continue
        _write_if_changed(folder / name, picture)
        title = plan.recipe.label(cell.row, plan.scale)
        if len(plan.scale.seeds) > 1:
            title += f", seed {cell.seed}"
        row = rows.setdefault((cell.row, cell.seed), GalleryRow(title=title, paths={}))
        row.paths[cell.arm] = f"{folder.name}/{name}"
    names = {Path(path).name for row in rows.values() for path in row.paths.values()}
    _delete_stale_copies(folder, keep=names)
    return Gallery(
        arms=tuple(arm.name for arm in plan.recipe.table.arms),
        rows=tuple(rows.values()),
        notes=tuple(notes),
    )


def _copy_names(plan: Plan) -> Iterator[tuple[Cell, PlannedRun, str]]:
    """Yield every cell's run with the file name of its picture's copy, by row and seed.

    The runs of searches are left out: a row would have dozens of pictures.
    """
    rows = unique_file_names(plan.scale.runs)
    arms = unique_file_names(arm.name for arm in plan.recipe.table.arms)
    groups = group_by_cell(plan)
    for row in rows:
        runs = [
            (cell, planned)
            for arm in arms
            for cell, planned in groups.get((row, arm), [])
            if not cell.value
        ]
        for cell, planned in sorted(runs, key=lambda pair: plan.scale.seeds.index(pair[0].seed)):
            yield cell, planned, f"{rows[row]}.{arms[cell.arm]}.seed{cell.seed}.png"


def _first_picture(plan: Plan, planned: PlannedRun) -> bytes | None:
    """Return the picture of a run, or else of the nearest run that it needs; None without one.

    Raises:
        ValueError: if the first run that names a picture names something else.
    """
    picture = _read_picture(planned)
    if picture is not None or not planned.run.needs:
        return picture
    needs = [run for _, run in runs_with_needs(planned.run, "")][:-1]
    found = (_read_picture(plan.by_run[need]) for need in reversed(needs))
    return next((picture for picture in found if picture is not None), None)


def _read_picture(planned: PlannedRun) -> bytes | None:
    """Return the picture of a run; None if it names none, or has not finished.

    Raises:
        ValueError: if the run names something other than a PNG in its own directory.
    """
    name = (planned.status.result or {}).get("details", {}).get("picture")
    if name is None:
        return None
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is not a file name")
    given, directory = Path(name), planned.directory.path.resolve()
    try:
        path = (directory / given).resolve()  # a link may point outside of the directory
        if given.is_absolute() or ".." in given.parts or not path.is_relative_to(directory):
            raise ValueError(f"{name!r} is not in the run's directory")
        if not path.is_file():  # reading a pipe would block
            raise ValueError(f"{name!r} is missing or not a file")
        picture = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name!r} cannot be read: {reason}") from None
    if not (picture.startswith(PNG_START) and picture.endswith(PNG_END)):
        raise ValueError(f"{name!r} is not a complete PNG")
    return picture


def _write_if_changed(path: Path, picture: bytes) -> None:
    with suppress(OSError):
        if path.read_bytes() == picture:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(picture)


def _delete_stale_copies(folder: Path, keep: set[str]) -> None:
    """Delete copies of earlier tables, and the folder if that leaves it empty."""
    if not folder.is_dir():
        return
    stale = [
        path
        for path in folder.iterdir()
        if COPY_NAME.fullmatch(path.name)
        and path.name not in keep
        and path.is_file()
        and not path.is_symlink()
    ]
    for path in stale:
        path.unlink(missing_ok=True)
    if stale:
        with suppress(OSError):  # the folder has other files
            folder.rmdir()
