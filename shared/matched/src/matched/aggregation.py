"""Aggregation over seeds: mean and standard deviation of each cell, and differences between arms.

These are numbers only; ``matched.summary_table`` formats them, and ``matched.table_formats`` writes
the formatted table to the terminal and to files.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from matched.planning import Plan, PlannedRun
from matched.status import State
from matched.table import Cell, Metric

CellRuns = Sequence[tuple[Cell, PlannedRun]]
"""The runs of one row and arm, one for each seed."""


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One metric of one row and arm, over its seeds.

    Attributes:
        values: seed → value, for the runs that are done; if every seed diverged, the best value
            before the divergence.
        diverged: number of seeds that diverged.
        states: seed → state, for every planned run.
    """

    values: Mapping[int, float]
    diverged: int
    states: Mapping[int, State]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two, NaN if a value is."""
        if len(self.values) < 2:
            return None
        # ``statistics.stdev`` fails with an AttributeError.
        finite = all(map(math.isfinite, self.values.values()))
        return statistics.stdev(self.values.values()) if finite else math.nan


def summarize_cell(cell_runs: CellRuns, metric: Metric) -> CellSummary:
    """Collect one metric and the states of the runs of one row and arm."""
    values: dict[State, dict[int, float]] = {State.DONE: {}, State.DIVERGED: {}}
    states = {}
    for cell, planned in cell_runs:
        states[cell.seed] = planned.status.state
        value = metric_of(cell, planned, metric.key)
        if value is not None:
            values[planned.status.state][cell.seed] = value
    diverged = sum(state is State.DIVERGED for state in states.values())
    shown = values[State.DIVERGED] if diverged == len(states) else values[State.DONE]
    return CellSummary(values=shown, diverged=diverged, states=states)


def metric_of(cell: Cell, planned: PlannedRun, key: str) -> float | None:
    """Return a metric of a finished run; if the run has metrics of several arms, the cell's."""
    metrics = (planned.status.result or {}).get("metrics", {})
    value = metrics.get(f"{cell.arm}/{key}", metrics.get(key))
    return None if value is None else float(value)


def mean_difference(base: CellSummary, other: CellSummary, seeds: Set[int]) -> float | None:
    """Return the mean of ``other`` minus ``base`` over the ``seeds`` that both have, if any."""
    common = sorted(set(base.values) & set(other.values) & seeds)
    if not common:
        return None
    mean = statistics.fmean(other.values[seed] - base.values[seed] for seed in common)
    return round(mean, 9)  # 82.5 - 82.3 is 0.20000000000000284 in floating point


def group_by_cell(plan: Plan) -> dict[tuple[str, str], list[tuple[Cell, PlannedRun]]]:
    """Return (row, arm) → its runs, one for each seed."""
    groups: dict[tuple[str, str], list[tuple[Cell, PlannedRun]]] = {}
    for planned in plan.runs:
        for cell in planned.cells:
            groups.setdefault((cell.row, cell.arm), []).append((cell, planned))
    return groups
