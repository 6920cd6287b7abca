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
"""The runs of one row and arm: one for each seed, or of a search one for each seed and trial."""


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One metric of one row and arm, over its seeds.

    Attributes:
        values: seed → value, for the runs that are done; if every seed diverged, the best value
            before the divergence.
        diverged: number of runs that diverged.
        states: of every planned run.
        found: the value that a search found best over all seeds; None for a measured metric.
            ``values`` are then the best values of each seed by itself.
    """

    values: Mapping[int, float]
    diverged: int
    states: tuple[State, ...]
    found: float | None = None

    @property
    def mean(self) -> float | None:
        """The mean over seeds, or what a search found; None without a value."""
        if self.found is not None:
            return self.found
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two, NaN if a value is."""
        if len(self.values) < 2 or self.found is not None:
            return None
        # ``statistics.stdev`` fails with an AttributeError.
        finite = all(map(math.isfinite, self.values.values()))
        return statistics.stdev(self.values.values()) if finite else math.nan


def summarize_cell(cell_runs: CellRuns, metric: Metric) -> CellSummary:
    """Collect one metric and the states of the runs of one row and arm."""
    values: dict[State, dict[int, float]] = {State.DONE: {}, State.DIVERGED: {}}
    states = tuple(planned.status.state for _, planned in cell_runs)
    for cell, planned in cell_runs:
        value = metric_of(cell, planned, metric.key)
        if value is not None:
            values[planned.status.state][cell.seed] = value
    diverged = states.count(State.DIVERGED)
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
    """Return (row, arm) → its runs, one for each seed, or for each seed and trial of a search."""
    groups: dict[tuple[str, str], list[tuple[Cell, PlannedRun]]] = {}
    for planned in plan.runs:
        for cell in planned.cells:
            groups.setdefault((cell.row, cell.arm), []).append((cell, planned))
    return groups
