"""What a table's runs have shown: means over seeds, changes, and whether the pairs are matched."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from matched.files import Damaged, read_json
from matched.plans import Item, Plan
from matched.run import Run, differences
from matched.rundir import State
from matched.table import Cell, Metric, pairs_of, unmatched


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One cell over its seeds, for one metric.

    Attributes:
        values: seed → value of the runs that are done; where every seed diverged, the best values
            that they had before.
        diverged: how many seeds diverged.
        states: seed → state, of every planned run.
    """

    values: Mapping[int, float]
    diverged: int
    states: Mapping[int, State]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


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
    one: Item
    other: Item
    changed: Mapping[str, tuple[Any, Any]]
    verdict: str
    why: str = ""


def summarise(items: Sequence[tuple[Cell, Item]], metric: Metric) -> Summary:
    """The runs of one cell of a table, over its seeds, for one metric."""
    values: dict[State, dict[int, float]] = {State.DONE: {}, State.DIVERGED: {}}
    states = {}
    for cell, item in items:
        states[cell.seed] = item.standing.state
        metrics = (item.standing.result or {}).get("metrics", {})
        if metric.key in metrics:
            values[item.standing.state][cell.seed] = float(metrics[metric.key])
    diverged = sum(state is State.DIVERGED for state in states.values())
    shown = values[State.DIVERGED] if diverged == len(states) else values[State.DONE]
    return Summary(values=shown, diverged=diverged, states=states)


def change(base: Summary, other: Summary, seeds: Set[int]) -> float | None:
    """Mean of ``other`` minus ``base`` over those of ``seeds`` that both have, if there are any."""
    both = sorted(set(base.values) & set(other.values) & seeds)
    if not both:
        return None
    mean = statistics.fmean(other.values[seed] - base.values[seed] for seed in both)
    return round(mean, 9)  # 82.5 - 82.3 is 0.20000000000000284 in floating point


def by_cell(plan: Plan) -> dict[tuple[str, str], list[tuple[Cell, Item]]]:
    """(row, arm) → its runs, one for each seed."""
    found: dict[tuple[str, str], list[tuple[Cell, Item]]] = {}
    for item in plan.items:
        for cell in item.cells:
            found.setdefault((cell.row, cell.arm), []).append((cell, item))
    return found


def pairs(plan: Plan) -> list[Pair]:
    """Every pair of a plan, judged by its configs and its fingerprints, and those of its needs."""
    shown = {cell: item for item in plan.items for cell in item.cells}
    items = {item.run: item for item in plan.items}
    found = []
    for base, cell in pairs_of(list(shown), plan.recipe.table.baseline.name):
        one, other = shown[base], shown[cell]
        changed = differences(base.run, cell.run)
        exceptions = plan.recipe.table.exceptions_of(cell.arm)
        verdict, why = _judge(one, other, changed, exceptions)
        for name, a, b in _needed(base.run, cell.run):
            if verdict != "matched":
                break
            # What a need changes has been judged: differences() goes through needs.
            verdict, why = _judge(items[a], items[b], {}, exceptions)
            why = why and f"{name}: {why}"
        found.append(
            Pair(
                row=cell.row,
                arm=cell.arm,
                seed=cell.seed,
                one=one,
                other=other,
                changed=changed,
                verdict=verdict,
                why=why,
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


def fingerprint(item: Item) -> dict[str, Any] | None:
    """Hashes of the run's initial non-norm weights and first batches; None if not yet there.

    Raises:
        Damaged: if fingerprint.json is not whole.
    """
    return read_json(item.directory / "fingerprint.json", ("weights", "batches"))


def _judge(
    one: Item, other: Item, changed: Mapping[str, tuple[Any, Any]], exceptions: set[str]
) -> tuple[str, str]:
    if wrong := unmatched(dict(changed), {"norm", *exceptions}):
        return "not matched", "config: " + ", ".join(wrong)
    try:
        prints = [fingerprint(one), fingerprint(other)]
    except Damaged as error:
        return "not matched", str(error)
    if None in prints:
        ended = all(item.standing.state.finished for item in (one, other))
        return "unknown", "ended without a fingerprint" if ended else "no fingerprint yet"
    a, b = prints
    # A run that is at work, or diverged in its first steps, has seen fewer batches.
    both = min(len(a["batches"]), len(b["batches"]))
    if not both and "batches" not in exceptions:
        return "unknown", "no batch seen yet"
    differ = {
        "weights": a["weights"] != b["weights"],
        "batches": a["batches"][:both] != b["batches"][:both],
    }
    unequal = [part for part, differs in differ.items() if differs and part not in exceptions]
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
