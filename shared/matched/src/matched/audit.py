"""Audit of matched pairs: verdicts from configs and fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matched.files import DamagedFileError, read_json
from matched.matching import differences, pairs_of, unmatched
from matched.planning import Plan, PlannedRun
from matched.run import Run


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run of another arm beside the baseline's of the same row and seed.

    Attributes:
        changed: what differs in the configs, as ``matched.run.differences`` gives it.
        verdict: "matched", "not matched", or "unknown" while a fingerprint is missing.
        why: what does not agree.
    """

    row: str
    arm: str
    seed: int
    one: PlannedRun
    other: PlannedRun
    changed: Mapping[str, tuple[Any, Any]]
    verdict: str
    reason: str = ""


def pairs(plan: Plan) -> list[Pair]:
    """Every pair of a plan, judged by its configs and its fingerprints, and those of its needs."""
    shown = {cell: planned for planned in plan.runs for cell in planned.cells}
    planned_runs = {planned.run: planned for planned in plan.runs}
    found = []
    for base, cell in pairs_of(list(shown), plan.recipe.table.baseline.name):
        one, other = shown[base], shown[cell]
        changed = differences(base.run, cell.run)
        allowed_differences = plan.recipe.table.allowed_differences_of(cell.arm)
        verdict, reason = _judge(one, other, changed, allowed_differences)
        for name, a, b in _needed(base.run, cell.run):
            if verdict != "matched":
                break
            # What a need changes has been judged: differences() goes through needs.
            verdict, reason = _judge(planned_runs[a], planned_runs[b], {}, allowed_differences)
            reason = reason and f"{name}: {reason}"
        found.append(
            Pair(
                row=cell.row,
                arm=cell.arm,
                seed=cell.seed,
                one=one,
                other=other,
                changed=changed,
                verdict=verdict,
                reason=reason,
            )
        )
    return found


def _needed(one: Run, other: Run) -> Iterator[tuple[str, Run, Run]]:
    """The runs that both need under one name, at any depth, and that name.

    One run that both need is matched with itself, whether it has a fingerprint or, as a cache of
    the data, none.
    """
    for name in one.needs.keys() & other.needs.keys():
        if one.needs[name] == other.needs[name]:
            continue
        yield from _needed(one.needs[name], other.needs[name])
        yield name, one.needs[name], other.needs[name]


def fingerprint(planned: PlannedRun) -> dict[str, Any] | None:
    """Hashes of the run's initial non-norm weights and first batches; None if not yet there.

    Raises:
        Damaged: if fingerprint.json is not whole.
    """
    return read_json(planned.directory / "fingerprint.json", ("weights", "batches"))


def _judge(
    one: PlannedRun,
    other: PlannedRun,
    changed: Mapping[str, tuple[Any, Any]],
    allowed_differences: set[str],
) -> tuple[str, str]:
    if wrong := unmatched(dict(changed), {"norm", *allowed_differences}):
        return "not matched", "config: " + ", ".join(wrong)
    try:
        prints = [fingerprint(one), fingerprint(other)]
    except DamagedFileError as error:
        return "not matched", str(error)
    if None in prints:
        ended = all(planned.status.state.finished for planned in (one, other))
        return "unknown", "ended without a fingerprint" if ended else "no fingerprint yet"
    a, b = prints
    # A run that is at work, or diverged in its first steps, has seen fewer batches.
    both = min(len(a["batches"]), len(b["batches"]))
    if not both and "batches" not in allowed_differences:
        return "unknown", "no batch seen yet"
    differ = {
        "weights": a["weights"] != b["weights"],
        "batches": a["batches"][:both] != b["batches"][:both],
    }
    unequal = [
        part for part, differs in differ.items() if differs and part not in allowed_differences
    ]
    if unequal:
        return "not matched", "fingerprint: " + ", ".join(unequal)
    return "matched", ""


def matched_seeds(found: Sequence[Pair], row: str, arm: str) -> set[int]:
    """The seeds of a row at which an arm's pair is matched."""
    return {p.seed for p in found if (p.row, p.arm, p.verdict) == (row, arm, "matched")}


def matched_mark(found: Sequence[Pair], row: str, arm: str) -> str:
    """ "yes", "no" or, while a run is missing, "—" for a row's pairs of one arm."""
    verdicts = {pair.verdict for pair in found if (pair.row, pair.arm) == (row, arm)}
    if "not matched" in verdicts:
        return "no"
    return "yes" if verdicts == {"matched"} else "—"
