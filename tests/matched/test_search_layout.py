"""Layout of searches: when a table is a grid of best values, and the texts of its cells."""

from types import SimpleNamespace

import pytest

from matched.aggregation import CellSummary
from matched.search_layout import (
    _best_values,
    _common_mark,
    _printed_values,
    _result,
    _text,
    is_grid,
)
from matched.status import State

from .test_search_summary import ALPHA0, label, summary


@pytest.mark.parametrize(
    ("searched", "metrics", "expected"),
    [
        ([("alpha0",), ("alpha0",)], ("alpha0", "loss"), True),
        ([("alpha0",), None], ("alpha0", "loss"), False),
        ([None, None], ("loss",), False),
        ([("alpha0",)], ("loss",), False),
        ([("alpha0", "beta0")], ("alpha0", "beta0", "loss"), True),
        ([("alpha0", "lr")], ("alpha0", "loss"), False),
        ([], ("alpha0",), False),
    ],
)
def test_grid_searches_in_every_cell_for_metrics(searched, metrics, expected):
    searches = {
        ("row", str(number)): parameters and SimpleNamespace(parameters=parameters)
        for number, parameters in enumerate(searched)
    }
    cells = [SimpleNamespace(row=row, arm=arm) for row, arm in searches]
    plan = SimpleNamespace(
        recipe=SimpleNamespace(
            metrics=lambda scale: [SimpleNamespace(key=key) for key in metrics],
            table=SimpleNamespace(cells=lambda scale: cells),
        ),
        scale=SimpleNamespace(search=lambda row, arm: searches[row, arm]),
    )
    assert is_grid(plan) == expected


@pytest.mark.parametrize(
    ("marks", "mark"),
    [
        (["yes", "yes"], "yes"),
        (["yes", "—"], "—"),
        (["—", "no"], "no"),
        (["yes", "no"], "no"),
        ([], "—"),
    ],
)
def test_mark_of_a_row_is_that_of_its_worst_cell(marks, mark):
    assert _common_mark(marks) == mark


def test_cell_of_two_searched_values_has_both():
    search = summary("lower", [{0: 3.0}, {0: 1.0}, {0: 1.0}], parameters=("alpha0", "beta0"))
    cell = [
        SimpleNamespace(
            metric=ALPHA0, ours=SimpleNamespace(found=found), search=search, printed=printed
        )
        for found, printed in ((0.8, {"alpha0": 0.8}), (0.2, {"alpha0": 0.2}))
    ]
    assert _best_values(cell) == "0.8/0.2≈"
    assert _printed_values(cell) == "0.8/0.2"
    cell[1].printed = {}
    assert _printed_values(cell) == "—"


@pytest.mark.parametrize(
    ("losses", "states", "texts"),
    [
        ([{0: 2.0, 1: 2.1}, {0: 3.25, 1: 3.35}], {}, ["2.05 ± 0.071 best", "3.3 ± 0.071"]),
        ([{0: 2.0}, {0: 2.0}], {}, ["2 best", "2 ≈"]),
        (
            [{0: 3.0}, {0: 2.0}],
            {2: (State.DONE, State.DIVERGED)},
            ["3 best", "2 (1 diverged) diverged"],
        ),
        ([{0: 3.0}, {}], {2: (State.DIVERGED,)}, ["3 best", "diverged"]),
        ([{0: 3.0}, {}], {2: (State.QUEUED,)}, ["3 best", "queued"]),
    ],
)
def test_result_of_a_trial_has_digits_to_compare(losses, states, texts):
    search = summary("lower", losses, states=states)
    assert [_result(search, trial) for trial in search.trials] == texts
    assert label(search.best) == "1" and isinstance(search.trials[0].cell, CellSummary)


def test_best_of_each_seed_is_named_where_seeds_disagree():
    agreed = summary("lower", [{0: 2.0, 1: 2.0}, {0: 3.0, 1: 3.0}])
    assert _text(agreed) == "1: 2 ± 0 best · 2: 3 ± 0"
    divided = summary("lower", [{0: 2.0, 1: 3.0}, {0: 3.0, 1: 2.5}])
    assert _text(divided).endswith(" (best by seed: 1, 2)")
