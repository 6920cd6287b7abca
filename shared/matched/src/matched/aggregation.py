"""What a table's runs have shown: means over seeds, changes, and whether the pairs are matched."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from matched.planning import Plan, PlannedRun
from matched.status import State
from matched.table import Cell, Metric


@dataclass(frozen=True, kw_only=True)
class CellSummary:
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


def summarise(planned_runs: Sequence[tuple[Cell, PlannedRun]], metric: Metric) -> CellSummary:
    """The runs of one cell of a table, over its seeds, for one metric."""
    values: dict[State, dict[int, float]] = {State.DONE: {}, State.DIVERGED: {}}
    states = {}
    for cell, planned in planned_runs:
        states[cell.seed] = planned.status.state
        metrics = (planned.status.result or {}).get("metrics", {})
        if metric.key in metrics:
            values[planned.status.state][cell.seed] = float(metrics[metric.key])
    diverged = sum(state is State.DIVERGED for state in states.values())
    shown = values[State.DIVERGED] if diverged == len(states) else values[State.DONE]
    return CellSummary(values=shown, diverged=diverged, states=states)


def change(base: CellSummary, other: CellSummary, seeds: Set[int]) -> float | None:
    """Mean of ``other`` minus ``base`` over those of ``seeds`` that both have, if there are any."""
    both = sorted(set(base.values) & set(other.values) & seeds)
    if not both:
        return None
    mean = statistics.fmean(other.values[seed] - base.values[seed] for seed in both)
    return round(mean, 9)  # 82.5 - 82.3 is 0.20000000000000284 in floating point


def by_cell(plan: Plan) -> dict[tuple[str, str], list[tuple[Cell, PlannedRun]]]:
    """(row, arm) → its runs, one for each seed."""
    found: dict[tuple[str, str], list[tuple[Cell, PlannedRun]]] = {}
    for planned in plan.runs:
        for cell in planned.cells:
            found.setdefault((cell.row, cell.arm), []).append((cell, planned))
    return found
