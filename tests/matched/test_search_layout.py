"""Layout of searches: when a table is a grid of best values, and the texts of its cells."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from matched.aggregation import CellSummary
from matched.search_layout import (
    TriedValues,
    _best_values,
    _common_mark,
    _printed_values,
    _result,
    _text,
    is_grid,
    tried_values,
)
from matched.status import State
from matched.summary_table import summary_table

from .search_projects import CLEAR, finish_trials, finish_tuned
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


# --- all values tried

PLAN = SimpleNamespace(
    recipe=SimpleNamespace(
        name="table1",
        change_texts=["lr=0.1", "epochs=2"],
        label=lambda row, scale: row.capitalize(),
        arm_label=lambda arm, scale: f"{arm}!",
    ),
    scale=SimpleNamespace(name="smoke"),
)


def entry(row, arm, search):
    return SimpleNamespace(row=row, arm=arm, search=search)


def test_tried_values_have_rows_of_searches_and_records_of_trials():
    losses = [{0: 3.0, 1: 4.0}, {0: 2.0, 1: 2.5}]
    of_losses = summary("lower", losses, parameters=("alpha0", "beta0"))
    diverged = {1: (State.DIVERGED, State.QUEUED)}
    of_top1 = summary("higher", [{}, {0: -80.0}], states=diverged, parameters=("lr",))
    of_top1.metric.__dict__.update(key="top1", label="top-1")  # frozen
    for search in (of_losses, of_top1):
        for number, trial in enumerate(search.trials):
            run = SimpleNamespace(signature=f"s{number}")
            trial.runs[:] = [(None, SimpleNamespace(run=run))] * len(trial.runs)
            search.__dict__["best_by_seed"] = {0: search.trials[1]}
    entries = [
        [entry("small", "LN", None), entry("small", "DyT", of_losses)],
        [entry("small", "LN", None), entry("small", "DyT", of_losses)],  # another metric
        [entry("large", "DyT", of_top1)],
    ]
    tried = tried_values(PLAN, entries)
    common = {"table": "table1", "scale": "smoke", "changes": "lr=0.1 epochs=2"}
    small = {**common, "row": "small", "model": "Small", "arm": "DyT", "lr": None}
    small |= {"metric": "m", "direction": "lower", "seeds_with_value": 2, "seeds_planned": 2}
    small |= {"seeds_diverged": 0, "states": "done done"}
    large = {**common, "row": "large", "model": "Large", "arm": "DyT"}
    large |= {"alpha0": None, "beta0": None, "metric": "top1", "direction": "higher", "std": None}
    assert tried == TriedValues(
        header=("model", "metric", "arm", "alpha0/beta0/lr: result"),
        rows=(
            ("Small", "m", "DyT!", "1/1: 3.5 ± 0.71 · 2/2: 2.25 ± 0.35 best"),
            ("Large", "top-1", "DyT!", "1: diverged · 2: 80 best"),
        ),
        records=(
            small
            | {"value": "1/1", "alpha0": 1, "beta0": 1, "mean": 3.5, "difference": 1.25}
            | {"std": pytest.approx(0.7071, abs=1e-4), "verdict": "", "seeds_best": 0}
            | {"signatures": "s0 s0"},
            small
            | {"value": "2/2", "alpha0": 2, "beta0": 2, "mean": 2.25, "difference": 0.0}
            | {"std": pytest.approx(0.3536, abs=1e-4), "verdict": "best", "seeds_best": 1}
            | {"signatures": "s1 s1"},
            large
            | {"value": "1", "lr": 1, "mean": None, "difference": None, "verdict": "diverged"}
            | {"seeds_best": 0, "seeds_with_value": 0, "seeds_planned": 2, "seeds_diverged": 1}
            | {"states": "diverged queued", "signatures": "s0 s0"},
            large
            | {"value": "2", "lr": 2, "mean": 80.0, "difference": 0.0, "verdict": "best"}
            | {"seeds_best": 1, "seeds_with_value": 1, "seeds_planned": 1, "seeds_diverged": 0}
            | {"states": "done", "signatures": "s1"},
        ),
    )
    of_one_metric = tried_values(PLAN, entries[:2])
    assert of_one_metric.header == ("model", "arm", "alpha0/beta0: m")
    assert of_one_metric.rows == (("Small", "DyT!", tried.rows[0][3]),)
    assert tried_values(PLAN, [[entry("small", "LN", None)]]) is None


# --- notes below the table

BEST = (
    "Best of the values tried, by the mean {} over the seeds. A value with a diverged seed is "
    "never the best. All values are listed below and in the file .tried.csv."
)
TIES = (
    "≈: another value is as good within the spread: the mean of the paired differences over the "
    "seeds is at most their standard deviation (with one seed: equal)."
)
OUTERMOST = "The best is the smallest or largest value tried, and a better one may be beyond: {}."
OPEN = "?: some of the values have not been computed yet."
MATCHED = (
    "Matched: the runs of a cell differ in the norm only, and have the same initial weights "
    "outside the norm layers and the same first batches."
)


@pytest.mark.parametrize(
    ("small", "large", "notes"),
    [
        ({}, {}, [BEST.format("loss"), MATCHED]),
        (CLEAR, CLEAR, [BEST.format("loss"), MATCHED]),
        (
            {**CLEAR, "own": (1.0, 1.1)},
            {**CLEAR, "own": (1.0, None)},
            [BEST.format("loss"), OUTERMOST.format("32, 2 (8); 32, 16"), OPEN, MATCHED],
        ),
        (
            {**CLEAR, "own": (2.3, 1.9)},
            {"DyT": (2.0, None)},
            [BEST.format("loss"), TIES, OUTERMOST.format("32, 16"), OPEN, MATCHED],
        ),
    ],
    ids=["no results", "clear", "outermost", "tied and open"],
)
def test_notes_of_a_grid_explain_its_marks(grid, small, large, notes):
    finish_trials(grid, "small", small)
    finish_trials(grid, "large", large)
    head, _, spread, *rest = summary_table(grid.plan()).notes
    assert head == "Scale: smoke. Data: none. Seeds: 2 per cell." and spread.startswith("± is")
    assert rest == notes, "no Δ"


def test_grid_of_no_paper_has_our_values_only(grid):
    finish_trials(grid, "small", CLEAR)
    plan = grid.plan()
    paper = replace(plan.recipe.paper, axes={})
    table = summary_table(replace(plan, recipe=replace(plan.recipe, paper=paper)))
    assert (table.header[0], [row[1] for row in table.rows]) == ("α0", ["ours", "paper"])
    table = summary_table(replace(plan, recipe=replace(plan.recipe, paper=None)))
    assert table.header == ("α0", "source", "2 (8)", "16", "runs", "matched")
    assert table.rows == (("32", "ours", "1", "—", "6/12", "—"),)


def test_notes_of_a_tuned_arm_name_it_with_its_row(tuned):
    finish_tuned(tuned, {0.05: 91.0, 0.1: 92.0, 0.2: 93.5})
    notes = summary_table(tuned.plan("table2")).notes
    assert list(notes)[-2:] == [BEST.format("top-1"), OUTERMOST.format("Small, DyT (tuned)")]
