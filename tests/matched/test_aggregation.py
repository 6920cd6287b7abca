"""Aggregation over seeds: values of a cell, mean, deviation, paired differences."""

import math
from types import SimpleNamespace

import pytest

from matched.aggregation import (
    CellSummary,
    group_by_cell,
    mean_difference,
    metric_of,
    summarize_cell,
)
from matched.status import RunStatus, State
from matched.table import Metric

LOSS = Metric(key="loss", label="loss", direction="lower")


def run(seed, state, metrics=None, arm="DyT"):
    result = None if metrics is None else {"metrics": metrics}
    status = RunStatus(state=state, result=result)
    return SimpleNamespace(seed=seed, arm=arm), SimpleNamespace(status=status)


def cell(values, **changes):
    return CellSummary(values=values, diverged=0, states=(State.DONE,) * len(values), **changes)


def test_summary_has_values_of_done_runs_by_seed():
    runs = [
        run(3, State.DONE, {"loss": 2, "top1": 80.0}),
        run(1, State.DONE, {"loss": 4}),
        run(2, State.DIVERGED, {"loss": 9}),
        run(4, State.RUNNING),
        run(5, State.DONE, {"top1": 80.0}),
    ]
    summary = summarize_cell(runs, LOSS)
    assert summary.values == {3: 2.0, 1: 4.0}
    assert summary.diverged == 1
    assert summary.states == tuple(planned.status.state for _, planned in runs)
    assert (summary.mean, summary.std) == (3.0, pytest.approx(math.sqrt(2)))


def test_mean_is_that_of_all_seeds():
    zeros, values = cell({0: 0.0, 1: 0.0, 2: 0.0}), cell({0: 1.0, 1: 2.0, 2: 6.0})
    assert values.mean == mean_difference(zeros, values, {0, 1, 2}) == 3.0


def test_summary_has_best_values_if_every_seed_diverged():
    runs = [run(0, State.DIVERGED, {"loss": 7}), run(1, State.DIVERGED, {})]
    summary = summarize_cell(runs, LOSS)
    assert (summary.values, summary.diverged, summary.mean) == ({0: 7.0}, 2, 7.0)


def test_metric_of_the_arm_wins_over_a_shared_one():
    cell_, planned = run(0, State.DONE, {"loss": 1, "LN/loss": 2, "DyT/loss": 3})
    assert metric_of(cell_, planned, "loss") == 3.0
    cell_, planned = run(0, State.DONE, {"loss": 1, "LN/loss": 2})
    assert metric_of(cell_, planned, "loss") == 1.0
    assert metric_of(cell_, planned, "top1") is None


@pytest.mark.parametrize(
    ("values", "changes", "mean", "std"),
    [
        ({}, {}, None, None),
        ({0: 5.0}, {}, 5.0, None),
        ({0: 5.0, 1: 7.0, 2: 9.0}, {}, 7.0, 2.0),
        ({0: 5.0, 1: 7.0}, {"found": 1.5}, 1.5, None),
        ({}, {"found": 0.0}, 0.0, None),
    ],
)
def test_mean_and_sample_deviation(values, changes, mean, std):
    summary = cell(values, **changes)
    assert (summary.mean, summary.std) == (mean, std)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_deviation_of_a_value_that_is_not_finite_is_nan(value):
    assert math.isnan(cell({0: 1.0, 1: value}).std)


@pytest.mark.parametrize(
    ("base", "other", "seeds", "expected"),
    [
        ({0: 82.3, 1: 80.0}, {0: 82.5, 1: 81.0}, {0, 1}, 0.6),
        ({0: 82.3, 1: 80.0}, {0: 82.5, 1: 81.0}, {0}, 0.2),
        ({0: 82.3, 1: 80.0}, {1: 79.0, 2: 10.0}, {0, 1, 2}, -1.0),
        ({0: 82.3}, {1: 79.0}, {0, 1}, None),
        ({0: 82.3}, {0: 79.0}, set(), None),
    ],
)
def test_mean_difference_is_paired_by_seed(base, other, seeds, expected):
    assert mean_difference(cell(base), cell(other), seeds) == expected


def test_runs_are_grouped_by_row_and_arm(project):
    """A run that several arms share is in the group of each."""
    groups = group_by_cell(project.plan())
    assert {key: [cell.seed for cell, _ in runs] for key, runs in groups.items()} == {
        (row, arm): [0, 1] for row in ("small", "large") for arm in ("LN", "DyT")
    }
    for (row, arm), runs in groups.items():
        assert all((cell.row, cell.arm) == (row, arm) for cell, _ in runs)
        assert all(cell.run == planned.run for cell, planned in runs)
    project.recipe(
        "TABLE = Table(arms=(Arm(name='a'), Arm(name='b')),"
        " scales=(scale(seeds=(0,), small={'a': SMALL, 'b': SMALL}),))"
    )
    plan = project.plan()
    groups = group_by_cell(plan)
    assert list(groups) == [("small", "a"), ("small", "b")]
    assert [planned for runs in groups.values() for _, planned in runs] == list(plan.runs) * 2
