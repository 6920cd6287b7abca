"""Matched pairs: config differences between two arms, and the refusal of unmatched recipes."""

from __future__ import annotations

import re
from typing import Any

from matched.run import Run
from matched.table import Cell, Scale, Table


def differences(one: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    """What differs between two runs: dotted path → (value in one, value in other)."""
    found: dict[str, tuple[Any, Any]] = {}
    _compare(_resolved(one), _resolved(other), "", found)
    return found


def _resolved(run: Run) -> dict[str, Any]:
    needs = {name: _resolved(need) for name, need in run.needs.items()}
    return {**run.description, "needs": needs}


def _compare(a: Any, b: Any, path: str, found: dict[str, tuple[Any, Any]]) -> None:
    if a == b:
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            below = f"{path}.{key}" if path else key
            _compare(a.get(key), b.get(key), below, found)
    else:
        found[path] = (a, b)


def field_of(path: str) -> str:
    """The config field that a dotted path of ``differences`` lies in ("config.norm.alpha0" → norm).

    Needs are transparent: "needs.pretrained.config.lr" is ``lr``.
    """
    inside = re.match(r"(?:needs\.[^.]+\.)*config\.([^.]+)", path)
    return inside[1] if inside else path


def check_matched(table: Table, scale: Scale) -> None:
    """Every arm's runs differ from the baseline's in the norm and the exceptions alone.

    Raises:
        ValueError: naming the first pair that is not matched, and what differs.
    """
    pairs = pairs_of(list(table.cells(scale)), table.baseline.name)
    for one, other in pairs:
        allowed = {"norm", *table.allowed_differences_of(other.arm)}
        wrong = unmatched(differences(one.run, other.run), allowed)
        if wrong:
            shown = "; ".join(f"{path}: {a!r} / {b!r}" for path, (a, b) in wrong.items())
            raise ValueError(
                f"row {one.row}: the arms {one.arm} and {other.arm} are not matched, "
                f"they differ in {shown}. Make them equal, or name the field with the reason "
                f"among the exceptions of the table or of the arm {other.arm}"
            )


def pairs_of(cells: list[Cell], baseline: str) -> list[tuple[Cell, Cell]]:
    """Each cell of another arm with the baseline's cell of the same row and seed."""
    bases = {(cell.row, cell.seed): cell for cell in cells if cell.arm == baseline}
    return [
        (bases[cell.row, cell.seed], cell)
        for cell in cells
        if cell.arm != baseline and (cell.row, cell.seed) in bases
    ]


def unmatched(found: dict[str, tuple[Any, Any]], allowed: set[str]) -> dict[str, tuple[Any, Any]]:
    """The differences that lie in no allowed field."""
    return {path: pair for path, pair in found.items() if field_of(path) not in allowed}
