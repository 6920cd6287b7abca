"""Matching of pairs: config differences between two runs, and the refusal of unmatched tables.

``check_matched`` runs when a recipe is loaded, before anything is computed. ``matched.audit``
judges pairs afterwards, from their fingerprints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from matched.run import Run
from matched.table import Cell, Scale, Table, runs_with_needs

MAX_SHOWN = 5
"""Differences shown in the message that refuses a table."""

FINGERPRINTS = ("weights", "batches")
"""Fingerprints of a run, which a table may allow to differ as it does config fields."""

Differences = dict[str, tuple[Any, Any]]
"""Dotted path, such as "config.norm.alpha0" → (value in the baseline, value in the other run)."""


def check_matched(table: Table, scale: Scale) -> None:
    """Check that every arm differs from the baseline in the norm and the allowed differences only.

    Raises:
        ValueError: naming the first pair that is not matched, and what differs; two values of a
            search that give the same run; or an allowed difference that no config has as a field.
    """
    cells = table.cells(scale)
    _check_trials_differ(cells)
    _check_allowed_fields(table, cells)
    for base, other in pair_with_baseline(cells, table.baseline.name):
        allowed = table.allowed_differences_of(other.arm)
        refused = disallowed_differences(run_differences(base.run, other.run), allowed)
        if refused:
            shown = _describe(refused)
            raise ValueError(
                f"row {base.row}: the arms {base.column} and {other.column} are not matched, "
                f"they differ in {shown}. Make these equal, or add the field and the reason to "
                f"allowed_differences of the table or of the arm {other.arm}"
            )


def _check_trials_differ(cells: Iterable[Cell]) -> None:
    """Raise ValueError if two values of a search give the same run."""
    values: dict[tuple[str, str, int, str], str] = {}
    for cell in cells:
        if cell.value:
            key = (cell.row, cell.arm, cell.seed, cell.run.signature)
            first = values.setdefault(key, cell.value)
            if first != cell.value:
                raise ValueError(
                    f"row {cell.row}, arm {cell.arm}: the values {first} and {cell.value} of the "
                    "search give the same run; give each trial's run its value, and the arm no "
                    "norm if the norm is what is tried"
                )


def _check_allowed_fields(table: Table, cells: Iterable[Cell]) -> None:
    """Raise ValueError if an allowed difference is neither a field of a run nor a fingerprint."""
    configs = {type(run.config) for cell in cells for _, run in runs_with_needs(cell.run, "")}
    known = {"task", *FINGERPRINTS, *(field.name for config in configs for field in fields(config))}
    allowed = {"table": table.allowed_differences}
    allowed |= {f"arm {arm.name}": arm.allowed_differences for arm in table.arms}
    for owner, names in allowed.items():
        fields_of_runs = [name for name in names if not name.startswith("needs.")]
        if unknown := [name for name in fields_of_runs if name not in known]:
            raise ValueError(
                f"allowed_differences of the {owner} names {', '.join(unknown)}, which no "
                f"config has; expected some of {', '.join(sorted(known))}"
            )


def _describe(differences: Differences) -> str:
    """Return the first differences with both values, and the number of the others."""
    texts = [f"{path}: {a!r} / {b!r}" for path, (a, b) in differences.items()]
    others = len(texts) - MAX_SHOWN
    return "; ".join([*texts[:MAX_SHOWN], *([f"and {others} more"] if others > 0 else [])])


def pair_with_baseline(cells: Iterable[Cell], baseline: str) -> list[tuple[Cell, Cell]]:
    """Pair each cell with the cell that it is compared with.

    This is the baseline's cell of the same row and seed. Where the baseline has a search, or no
    run, each trial of a search is paired with the first trial of the same search.
    """
    cells = list(cells)
    baseline_cells = {
        (cell.row, cell.seed): cell for cell in cells if cell.arm == baseline and not cell.value
    }
    first_trials: dict[tuple[str, str, int], Cell] = {}
    pairs = []
    for cell in cells:
        base = baseline_cells.get((cell.row, cell.seed))
        if base is None and cell.value:
            base = first_trials.setdefault((cell.row, cell.arm, cell.seed), cell)
        if base is not None and base is not cell:
            pairs.append((base, cell))
    return pairs


def run_differences(base: Run, other: Run) -> Differences:
    """Return the differences between two runs in task, config and needs."""
    differences: Differences = {}
    _add_differences(_full_description(base), _full_description(other), "", differences)
    return differences


def _full_description(run: Run) -> dict[str, Any]:
    """The run's description, with descriptions in place of the signatures of its needs."""
    if not run.needs:
        return run.description
    needs = {name: _full_description(need) for name, need in run.needs.items()}
    return {**run.description, "needs": needs}


def _add_differences(a: Any, b: Any, path: str, differences: Differences) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        changed = [key for key, value in a.items() if value != b.get(key)]
        changed += [key for key, value in b.items() if key not in a and value is not None]
        for key in changed:
            child = f"{path}.{key}" if path else key
            _add_differences(a.get(key), b.get(key), child, differences)
    else:
        differences[path] = (a, b)


def disallowed_differences(differences: Differences, allowed: set[str]) -> Differences:
    """Return the differences whose config field is not in ``allowed``."""
    return {path: pair for path, pair in differences.items() if config_field(path) not in allowed}


def config_field(path: str) -> str:
    """Return the config field of a path of ``Differences`` ("config.norm.alpha0" → "norm").

    The field of a need counts as the field of that name: "needs.pretrained.config.lr" → "lr". A
    path outside the configs is returned as it is.
    """
    match = re.match(r"(?:needs\.[^.]+\.)*config\.([^.]+)", path)
    return match[1] if match else path
