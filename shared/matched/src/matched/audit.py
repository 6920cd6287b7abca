"""Audit of matched pairs: a verdict for each pair from configs and fingerprints.

A fingerprint has hashes of a run's initial weights outside the norm layers, and of its first
batches. ``matched.matching`` refuses unmatched configs before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matched.files import DamagedFileError, read_json
from matched.matching import (
    FINGERPRINTS,
    Differences,
    disallowed_differences,
    pair_with_baseline,
    run_differences,
)
from matched.planning import Plan, PlannedRun
from matched.run import Run
from matched.table import runs_with_needs

Verdict = Literal["matched", "not matched", "unknown"]
"""A verdict is "unknown" as long as a fingerprint is missing."""


@dataclass(frozen=True, kw_only=True)
class AuditedPair:
    """A run with the run that it is compared with, and the verdict.

    ``matched.matching.pair_with_baseline`` says which run that is.

    Attributes:
        base_column, column: arms of both runs, with the value if it is a search.
        value: label of the trial, if the row and arm have a search.
        differences: config differences, as ``matched.matching.run_differences`` returns them.
        reason: why the verdict is not "matched".
        hardware: what computed the baseline's run and the other, as ``hardware_of`` returns it.
    """

    row: str
    arm: str
    seed: int
    base: PlannedRun
    other: PlannedRun
    differences: Differences
    verdict: Verdict
    base_column: str
    column: str
    value: str = ""
    reason: str = ""
    hardware: tuple[str, str]

    @property
    def different_hardware(self) -> bool:
        return differ(*self.hardware)


def hardware_of(plan: Plan, run: Run) -> str:
    """Return the names of what computed a finished run and its needs; "" if none is recorded."""
    chain = (plan.by_run[one].status.result or {} for _, one in runs_with_needs(run, ""))
    return ", ".join(sorted({result.get("hardware", "") for result in chain} - {""}))


def differ(hardware: str, other: str) -> bool:
    """True if both are known and not the same."""
    return bool(hardware and other and hardware != other)


def audit_pairs(plan: Plan) -> list[AuditedPair]:
    """Judge every pair of a plan by its configs, fingerprints, and fingerprints of its needs."""
    table = plan.recipe.table
    planned_by_cell = {cell: planned for planned in plan.runs for cell in planned.cells}
    pairs = []
    for base_cell, cell in pair_with_baseline(planned_by_cell, table.baseline.name):
        base, other = planned_by_cell[base_cell], planned_by_cell[cell]
        differences = run_differences(base.run, other.run)
        allowed = table.allowed_differences_of(cell.arm)
        verdict: Verdict
        if refused := disallowed_differences(differences, allowed):
            reason = f"configs differ in {', '.join(refused)}"
            verdict = "not matched"
        else:
            verdict, reason = _compare_fingerprints(base, other, allowed)
        for name, a, b in _pairs_of_needs(base.run, other.run):
            if verdict != "matched":
                break
            # Configs of needs are already judged: run_differences() includes them.
            verdict, reason = _compare_fingerprints(plan.by_run[a], plan.by_run[b], allowed)
            reason = reason and f"{name}: {reason}"
        pairs.append(
            AuditedPair(
                row=cell.row,
                arm=cell.arm,
                seed=cell.seed,
                base=base,
                other=other,
                differences=differences,
                verdict=verdict,
                reason=reason,
                base_column=base_cell.column,
                column=cell.column,
                value=cell.value,
                hardware=(hardware_of(plan, base.run), hardware_of(plan, other.run)),
            )
        )
    return pairs


def _pairs_of_needs(base: Run, other: Run) -> Iterator[tuple[str, Run, Run]]:
    """Yield (name, base need, other need) for needs with the same name, recursively.

    A need that both share is skipped: it matches itself, even without a fingerprint, as for a cache
    of the data.
    """
    for name in base.needs.keys() & other.needs.keys():
        if base.needs[name] == other.needs[name]:
            continue
        yield from _pairs_of_needs(base.needs[name], other.needs[name])
        yield name, base.needs[name], other.needs[name]


def read_fingerprint(planned: PlannedRun) -> dict[str, Any] | None:
    """Return the hashes "weights" and "batches" of a run; None if they are not written yet.

    Raises:
        DamagedFileError: if fingerprint.json is not complete.
    """
    return read_json(f"{planned.directory.path}/fingerprint.json", FINGERPRINTS)


def _compare_fingerprints(
    base: PlannedRun, other: PlannedRun, allowed: set[str]
) -> tuple[Verdict, str]:
    """Return the verdict on two runs by their fingerprints, and its reason."""
    if base is other:  # one run computes both arms
        return ("matched", "") if base.status.state.finished else ("unknown", "no result yet")
    try:
        a, b = read_fingerprint(base), read_fingerprint(other)
    except DamagedFileError as error:
        return "not matched", str(error)
    if a is None or b is None:
        ended = base.status.state.finished and other.status.state.finished
        return "unknown", "ended without a fingerprint" if ended else "no fingerprint yet"
    # A run that is still running, or diverged in its first steps, has hashed fewer batches.
    common = min(len(a["batches"]), len(b["batches"]))
    if not common and "batches" not in allowed:
        return "unknown", "no batch in the fingerprint yet"
    equal = {
        "weights": a["weights"] == b["weights"],
        "batches": a["batches"][:common] == b["batches"][:common],
    }
    unequal = [part for part in equal if not equal[part] and part not in allowed]
    if unequal:
        return "not matched", f"fingerprints differ in {', '.join(unequal)}"
    return "matched", ""


def matched_seeds(pairs: Sequence[AuditedPair], row: str, arm: str, value: str = "") -> set[int]:
    """Return the seeds for which the pair is matched and both runs were computed on one hardware.

    Hardware changes the rounding, and with it a result; a difference must not contain that.

    Args:
        value: label of a trial, if the row and arm have a search.
    """
    wanted = (row, arm, value, "matched")
    return {
        p.seed
        for p in pairs
        if (p.row, p.arm, p.value, p.verdict) == wanted and not p.different_hardware
    }


def matched_mark(pairs: Sequence[AuditedPair], row: str, arm: str) -> str:
    """Return "yes", "no", or "—" while a verdict is unknown, for all runs of a row and arm."""
    verdicts = {pair.verdict for pair in pairs if (pair.row, pair.arm) == (row, arm)}
    if "not matched" in verdicts:
        return "no"
    return "yes" if verdicts == {"matched"} else "—"
