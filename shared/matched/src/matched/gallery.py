"""The pictures that runs have made, gathered beside a table: the eye compares its arms too.

A task names its picture in ``Outcome.details["picture"]``. Copies are made, for results are handed
on without the runs folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matched.aggregation import by_cell
from matched.files import atomic_write
from matched.planning import Plan, PlannedRun
from matched.table import Cell

BEGIN, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
"""The first and the last bytes of every whole PNG."""
WRITTEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.seed-?\d+\.png")
"""The names that ``gather`` gives, and the only ones that it deletes."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The pictures of one row, and of one seed where there are several.

    Attributes:
        paths: arm → its picture, relative to the folder in which the table is written.
    """

    title: str
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What there is to show, arms side by side, and in ``notes`` what was named but cannot be."""

    arms: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


NO_PICTURES = Gallery(arms=(), lines=(), notes=())


def gather(plan: Plan, folder: Path) -> Gallery:
    """Copy the pictures of a table's finished runs to ``folder``, and delete what is not of them.

    Files that bear no name of ours are left alone, and there is no folder without pictures.

    Raises:
        OSError: if the folder cannot be written.
    """
    lines: dict[tuple[str, int], Line] = {}
    notes = []
    for cell, planned, name in _named(plan):
        try:
            picture = _read(planned)
        except ValueError as error:
            notes.append(f"Picture left out: {cell}: {error}")
            continue
        if picture is None:
            continue
        _write(folder / name, picture)
        title = plan.recipe.paper.label(cell.row)
        if len(plan.scale.seeds) > 1:
            title += f", seed {cell.seed}"
        line = lines.setdefault((cell.row, cell.seed), Line(title=title, paths={}))
        line.paths[cell.arm] = f"{folder.name}/{name}"
    _tidy(folder, {Path(path).name for line in lines.values() for path in line.paths.values()})
    return Gallery(
        arms=tuple(arm.name for arm in plan.recipe.table.arms),
        lines=tuple(lines.values()),
        notes=tuple(notes),
    )


def _named(plan: Plan) -> Iterator[tuple[Cell, PlannedRun, str]]:
    """Every cell's run and the name of its picture, by row and seed, as they are shown."""
    rows = _safe(plan.scale.runs)
    arms = _safe(arm.name for arm in plan.recipe.table.arms)
    runs = by_cell(plan)
    for row in rows:
        found = [pair for arm in arms for pair in runs.get((row, arm), [])]
        for cell, planned in sorted(found, key=lambda pair: plan.scale.seeds.index(pair[0].seed)):
            yield cell, planned, f"{rows[row]}.{arms[cell.arm]}.seed{cell.seed}.png"


def _safe(names: Iterable[str]) -> dict[str, str]:
    """Each name as files and addresses may hold it; no two alike, also where case is ignored."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "unnamed"
        safe, count = plain, 1
        while safe.lower() in taken:
            count += 1
            safe = f"{plain}-{count}"
        taken.add(safe.lower())
        found[name] = safe
    return found


def _read(planned: PlannedRun) -> bytes | None:
    """The picture of a run; None where it has none, or has not finished.

    Raises:
        ValueError: if what the run names is no picture of its own.
    """
    name = (planned.status.result or {}).get("details", {}).get("picture")
    if name is None:
        return None
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no file name")
    given, home = Path(name), planned.directory.path.resolve()
    try:
        path = (home / given).resolve()  # links may lead elsewhere too
        if given.is_absolute() or ".." in given.parts or not path.is_relative_to(home):
            raise ValueError(f"{name!r} is not in the run's directory")
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{name!r} is not there")
        picture = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        words = getattr(error, "strerror", None) or error
        raise ValueError(f"{name!r} cannot be read: {words}") from None
    if not (picture.startswith(BEGIN) and picture.endswith(END)):
        raise ValueError(f"{name!r} is no whole PNG")
    return picture


def _write(path: Path, picture: bytes) -> None:
    with suppress(OSError):
        if path.read_bytes() == picture:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(picture)


def _tidy(folder: Path, shown: set[str]) -> None:
    """Delete pictures of earlier tables, and the folder if that leaves it empty."""
    if not folder.is_dir():
        return
    stale = [
        path
        for path in folder.iterdir()
        if WRITTEN.fullmatch(path.name)
        and path.name not in shown
        and path.is_file()
        and not path.is_symlink()
    ]
    for path in stale:
        path.unlink(missing_ok=True)
    if stale:
        with suppress(OSError):  # something else lies there
            folder.rmdir()
