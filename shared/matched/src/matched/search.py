"""Searches as data: cells of a table that try several values and show the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from matched.checks import check_counts
from matched.run import Run

TRIED_COLUMNS = (
    "table",
    "scale",
    "row",
    "model",
    "arm",
    "value",
    "metric",
    "direction",
    "mean",
    "std",
    "difference",
    "verdict",
    "seeds_best",
    "seeds_with_value",
    "seeds_planned",
    "seeds_diverged",
    "states",
    "changes",
    "signatures",
)
"""Columns of .tried.csv besides those of the parameters."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that a search tries.

    Attributes:
        values: parameter → value, such as {"alpha0": 0.5}. The parameters are names for tables
            and CSV; the run's config has the values that count.
    """

    values: Mapping[str, float]
    run: Run

    @cached_property
    def label(self) -> str:
        """The values as tables and the command line have them: "0.5", "0.8/0.2"."""
        return label_of(self.values)


def label_of(values: Mapping[str, float]) -> str:
    """Return values in short form, such as "0.8/0.2" for two parameters."""
    return "/".join(f"{value:g}" for value in values.values())


def label_of_text(text: str) -> str:
    """Return the short form of values that a user typed: "1.0/5e-1" → "1/0.5"; keep other text."""
    try:
        return "/".join(f"{float(part):g}" for part in text.split("/"))
    except ValueError:
        return text


@dataclass(frozen=True, kw_only=True)
class Search:
    """A cell of a table with several runs, of which the best is shown.

    The best is the trial with the best mean of ``metric`` over the seeds. All trials are printed
    below the table and written as CSV. The runs of a search differ only in the norm and in what
    the table allows, so they are matched with each other, or with the baseline if that is one run.

    Attributes:
        metric: key of the metric that decides; its direction says which value is better.
        trials: in the order of print.
        original: values of the trial that was not tuned, if there is one. If no other is better,
            the table prints "no gain", as the papers do.
        minutes, cpu_minutes: expected time of one run, if it is not that of the scale's resources.

    Raises:
        ValueError: for fewer than two trials, a parameter with the name of a column of
            .tried.csv, a value that is tried twice, a trial whose
            parameters are not those of the others, a value that is not a finite number, an
            original with other parameters or that is not tried, and minutes below 1.
    """

    metric: str
    trials: tuple[Trial, ...]
    original: Mapping[str, float] | None = None
    minutes: int | None = None
    cpu_minutes: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, *self.expected_minutes)
        if len(self.trials) < 2:
            raise ValueError(f"a search tries {len(self.trials)} values; expected two at least")
        if taken := [name for name in self.parameters if name in TRIED_COLUMNS]:
            raise ValueError(
                f"a search tries values of {', '.join(taken)}, which is the name of a column of "
                ".tried.csv; choose another name"
            )
        for trial in self.trials:
            self._check_values("a trial", trial.values)
        if self.original is not None:
            self._check_values("the original", self.original)
        labels = [trial.label for trial in self.trials]
        if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
            raise ValueError(f"a search tries {', '.join(twice)} twice; name each value once")
        if self.original is not None and label_of(self.original) not in labels:
            raise ValueError(
                f"the original value {label_of(self.original)} of a search is not tried; add it "
                f"to the trials, {', '.join(labels)}"
            )

    def _check_values(self, what: str, values: Mapping[str, float]) -> None:
        """Refuse parameters that the first trial lacks, and values that are not numbers."""
        if tuple(values) != self.parameters or not self.parameters:
            raise ValueError(
                f"{what} of a search has values of {', '.join(values) or 'nothing'}; "
                f"expected {', '.join(self.parameters) or 'at least one'}, as the first has"
            )
        for name, value in values.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise ValueError(f"a search tries {name} {value!r}; expected finite numbers")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the values that are tried, in the order of print."""
        return tuple(self.trials[0].values)

    @property
    def expected_minutes(self) -> dict[str, Any]:
        """The times that replace those of the resources: "minutes", "cpu_minutes" or both."""
        times = {"minutes": self.minutes, "cpu_minutes": self.cpu_minutes}
        return {name: time for name, time in times.items() if time is not None}

    def map_runs(self, change: Callable[[Run], Run]) -> Search:
        """Return the search with every run changed."""
        trials = (replace(trial, run=change(trial.run)) for trial in self.trials)
        return replace(self, trials=tuple(trials))


def runs_of(cell: Run | Search) -> Iterator[Run]:
    """Yield the run of a cell, or the runs of a search."""
    if isinstance(cell, Run):
        yield cell
    else:
        yield from (trial.run for trial in cell.trials)


def map_runs(cell: Run | Search, change: Callable[[Run], Run]) -> Run | Search:
    """Return a cell, with one run or a search, with every run changed."""
    return change(cell) if isinstance(cell, Run) else cell.map_runs(change)
