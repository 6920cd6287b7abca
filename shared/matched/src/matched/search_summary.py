"""Results of a search over its seeds: the best trial, ties, and the best of each seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from matched.aggregation import CellRuns, CellSummary, summarize_cell
from matched.search import Search, Trial, label_of
from matched.status import State
from matched.table import Metric


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial with its runs, and the metric that decides, over the seeds."""

    trial: Trial
    runs: CellRuns
    cell: CellSummary

    @property
    def eligible(self) -> bool:
        """True if the trial can be the best: it has finite values, and no seed diverged."""
        return (
            bool(self.cell.values)
            and not self.cell.diverged
            and all(map(math.isfinite, self.cell.values.values()))
        )


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """The results of all trials of a search.

    Attributes:
        metric: the one that decides.
    """

    search: Search
    metric: Metric
    trials: tuple[TrialSummary, ...]

    @cached_property
    def best(self) -> TrialSummary | None:
        """The trial with the best mean; None if none has a number and no divergence.

        Of equal means the original's wins, then the first in the order of the search.
        """
        eligible = [trial for trial in self.trials if trial.eligible]
        return min(
            eligible,
            key=lambda trial: (self._cost(trial), not self._is_original(trial)),
            default=None,
        )

    def _cost(self, trial: TrialSummary) -> float:
        assert trial.cell.mean is not None
        return self._sign * trial.cell.mean

    @property
    def _sign(self) -> int:
        """1 if lower values of the metric are better, otherwise -1."""
        return 1 if self.metric.direction == "lower" else -1

    def _is_original(self, trial: TrialSummary) -> bool:
        original = self.search.original
        return original is not None and trial.trial.label == label_of(original)

    @property
    def states(self) -> tuple[State, ...]:
        """The states of all runs."""
        return tuple(state for trial in self.trials for state in trial.cell.states)

    @property
    def ended(self) -> bool:
        """True if every run is done or has diverged."""
        return all(state.finished for state in self.states)

    @property
    def no_gain(self) -> bool:
        """True if no other value is better than the original."""
        return self.best is not None and self._is_original(self.best)

    @property
    def best_is_outermost(self) -> bool:
        """True if the best of single values is the smallest or largest: a better may be beyond."""
        if self.best is None or len(self.search.parameters) > 1:
            return False
        (name,) = self.search.parameters
        tried = sorted(trial.trial.values[name] for trial in self.trials)
        return self.best.trial.values[name] in (tried[0], tried[-1])

    @cached_property
    def ties(self) -> tuple[TrialSummary, ...]:
        """The other trials that are within the spread over seeds of the best.

        The mean of their paired differences to the best is at most the standard deviation of these
        differences. With one seed, only an equal number is a tie.
        """
        return tuple(trial for trial in self.trials if self._is_tied(trial))

    def _is_tied(self, trial: TrialSummary) -> bool:
        if self.best is None or trial is self.best or not trial.eligible:
            return False
        seeds = trial.cell.values.keys() & self.best.cell.values.keys()
        differences = [
            self._sign * (trial.cell.values[seed] - self.best.cell.values[seed])
            for seed in sorted(seeds)
        ]
        if not differences:
            return False
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        return statistics.fmean(differences) <= spread

    def difference(self, trial: TrialSummary) -> float | None:
        """Return the trial's mean minus the best's; None where one is missing."""
        if self.best is None or self.best.cell.mean is None or trial.cell.mean is None:
            return None
        return trial.cell.mean - self.best.cell.mean

    @cached_property
    def best_by_seed(self) -> Mapping[int, TrialSummary]:
        """Seed → the best trial of that seed alone, for seeds of which every run has ended."""
        pending = {
            cell.seed
            for trial in self.trials
            for cell, planned in trial.runs
            if not planned.status.state.finished
        }
        best: dict[int, TrialSummary] = {}
        for trial in self.trials:
            for seed, value in trial.cell.values.items() if trial.eligible else ():
                first = best.setdefault(seed, trial)
                if self._sign * (value - first.cell.values[seed]) < 0:
                    best[seed] = trial
        return {seed: trial for seed, trial in best.items() if seed not in pending}

    def cell(self, metric: Metric) -> CellSummary:
        """Return the search as one cell: the best trial's numbers, or the best value itself."""
        diverged = self.states.count(State.DIVERGED)
        best = self.best
        if metric.key in self.search.parameters:
            values = {s: t.trial.values[metric.key] for s, t in self.best_by_seed.items()}
            return CellSummary(
                values=values if best else {},
                diverged=diverged,
                states=self.states,
                found=best.trial.values[metric.key] if best else None,
            )
        return CellSummary(
            values=best.cell.values if best else {}, diverged=diverged, states=self.states
        )


def summarize_search(search: Search, runs: CellRuns, metric: Metric) -> SearchSummary:
    """Collect the results of a search from the runs of its row and arm."""
    trials = []
    for trial in search.trials:
        own = [(cell, planned) for cell, planned in runs if cell.value == trial.label]
        trials.append(TrialSummary(trial=trial, runs=own, cell=summarize_cell(own, metric)))
    return SearchSummary(search=search, metric=metric, trials=tuple(trials))
