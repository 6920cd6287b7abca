"""Results of a search over its seeds, for metrics of both directions."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from matched.aggregation import CellSummary
from matched.entries import format_finished_count, format_ours
from matched.run import Run
from matched.search import Search, Trial
from matched.search_summary import SearchSummary, TrialSummary
from matched.status import RunStatus, State
from matched.table import Metric

from .test_search import Config

DIRECTIONS = {"lower": 1.0, "higher": -1.0}
both = pytest.mark.parametrize("direction", DIRECTIONS)


def summary(direction, losses, *, original=None, states=None, parameters=("alpha0",)):
    """A search over values 1, 2, …, from seed → loss of each; signs suit the direction."""
    trials, summaries = [], []
    for number, values in enumerate(losses, start=1):
        run = Run(task="tiny:train", config=Config(norm=str(number)))
        trials.append(Trial(values=dict.fromkeys(parameters, number), run=run))
        own = (states or {}).get(number, (State.DONE,) * len(values))
        seeds = range(len(own))
        cells = [
            (SimpleNamespace(seed=seed), SimpleNamespace(status=RunStatus(state=state)))
            for seed, state in zip(seeds, own, strict=True)
        ]
        signed = {seed: DIRECTIONS[direction] * value for seed, value in values.items()}
        cell = CellSummary(values=signed, diverged=own.count(State.DIVERGED), states=own)
        summaries.append(TrialSummary(trial=trials[-1], runs=cells, cell=cell))
    search = Search(
        metric="m",
        trials=tuple(trials),
        original=original and dict.fromkeys(parameters, original),
    )
    metric = Metric(key="m", label="m", direction=direction)
    return SearchSummary(search=search, metric=metric, trials=tuple(summaries))


def label(trial):
    return trial and trial.trial.label


@both
@pytest.mark.parametrize(
    ("losses", "original", "best", "no_gain"),
    [
        ([{0: 3.0}, {0: 1.0}, {0: 2.0}], None, "2", False),
        ([{0: 1.0}, {0: 1.0}, {0: 2.0}], None, "1", False),
        ([{0: 1.0}, {0: 1.0}, {0: 2.0}], 2, "2", True),
        ([{0: 1.0}, {0: 2.0}, {0: 2.0}], 2, "1", False),
        ([{0: 1.0, 1: 4.0}, {0: 2.0, 1: 2.0}, {0: 9.0, 1: 9.0}], None, "2", False),
        ([{0: float("nan")}, {0: 5.0}, {}], None, "2", False),
        ([{}, {}, {}], None, None, False),
    ],
)
def test_best_is_by_mean_and_the_original_wins_ties(direction, losses, original, best, no_gain):
    found = summary(direction, losses, original=original)
    assert (label(found.best), found.no_gain) == (best, no_gain)


@both
def test_trial_with_a_diverged_seed_is_never_the_best(direction):
    states = {1: (State.DONE, State.DIVERGED)}
    found = summary(direction, [{0: 1.0}, {0: 5.0, 1: 5.0}], states=states)
    assert label(found.best) == "2" and found.ended and not found.ties
    assert found.best_by_seed.keys() == {0, 1}
    assert {label(trial) for trial in found.best_by_seed.values()} == {"2"}


@both
@pytest.mark.parametrize(
    ("losses", "ties"),
    [
        # Differences to the best: (1.0, -0.8), mean 0.1, deviation 1.27.
        ([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 1.2}], ["2"]),
        # (1.0, 0.8): mean 0.9, deviation 0.14.
        ([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 2.8}], []),
        ([{0: 1.0}, {0: 1.0}, {0: 1.001}], ["2"]),
        ([{0: 1.0}, {1: 1.0}], []),  # no common seed
    ],
)
def test_ties_are_within_the_spread_of_paired_differences(direction, losses, ties):
    found = summary(direction, losses)
    assert label(found.best) == "1"
    assert [label(trial) for trial in found.ties] == ties


@both
def test_best_by_seed_leaves_out_unfinished_seeds(direction):
    losses = [{0: 1.0, 1: 4.0, 2: 1.0}, {0: 2.0, 1: 3.0}]
    states = {2: (State.DONE, State.DONE, State.RUNNING)}
    found = summary(direction, losses, states=states)
    assert {seed: label(trial) for seed, trial in found.best_by_seed.items()} == {0: "1", 1: "2"}
    assert not found.ended
    assert found.states == (State.DONE,) * 5 + (State.RUNNING,)


@pytest.mark.parametrize(
    ("losses", "outermost"),
    [
        ([{0: 1.0}, {0: 2.0}, {0: 3.0}], True),
        ([{0: 2.0}, {0: 1.0}, {0: 3.0}], False),
        ([{0: 3.0}, {0: 2.0}, {0: 1.0}], True),
        ([{}, {}, {}], False),
    ],
)
def test_best_is_outermost_at_both_ends(losses, outermost):
    assert summary("lower", losses).best_is_outermost == outermost
    assert not summary("lower", losses, parameters=("alpha0", "beta0")).best_is_outermost


def test_best_is_outermost_in_any_order_of_trials():
    found = summary("lower", [{0: 1.0}, {0: 2.0}, {0: 3.0}])
    one, two, three = found.trials
    assert replace(found, trials=(two, one, three)).best_is_outermost
    best_between = summary("lower", [{0: 2.0}, {0: 1.0}, {0: 3.0}])
    one, two, three = best_between.trials
    assert not replace(best_between, trials=(two, one, three)).best_is_outermost


@both
def test_difference_is_the_mean_minus_the_best(direction):
    found = summary(direction, [{0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0}, {}])
    sign = DIRECTIONS[direction]
    assert [found.difference(trial) for trial in found.trials] == [0.0, 1.5 * sign, None]


def test_cell_of_a_search_is_the_best_trial_or_value():
    found = summary("lower", [{0: 1.0, 1: 4.0}, {0: 2.0, 1: 2.0}])
    cell = found.cell(found.metric)
    assert (cell.values, cell.found, len(cell.states)) == ({0: 2.0, 1: 2.0}, None, 4)
    cell = found.cell(Metric(key="alpha0", label="α0", direction="none"))
    assert (cell.values, cell.found, cell.mean) == ({0: 1, 1: 2}, 2, 2)


ALPHA0 = Metric(key="alpha0", label="α0", direction="none")
OPEN = {3: (State.RUNNING,)}


@pytest.mark.parametrize(
    ("metric", "losses", "options", "text"),
    [
        ("m", [{0: 3.0}, {0: 1.0}, {0: 2.0}], {}, "1.00 (2)"),
        ("m", [{0: 3.0}, {0: 1.0}, {}], {"states": OPEN}, "1.00 (2?)"),
        ("m", [{0: 3.0}, {0: 1.0}, {0: 1.0}], {}, "1.00 (2≈)"),
        ("m", [{0: 1.0}, {0: 1.0}, {}], {"states": OPEN}, "1.00 (1?≈)"),
        ("m", [{0: 3.0}, {0: 1.0}, {0: 2.0}], {"original": 2}, "no gain"),
        ("m", [{0: 3.0}, {0: 1.0}, {0: 1.0}], {"original": 2}, "no gain≈"),
        ("m", [{0: 3.0}, {0: 1.0}, {}], {"original": 2, "states": OPEN}, "no gain?"),
        ("m", [{}, {}, {}], {"states": {1: (State.DIVERGED,)}}, "diverged"),
        ("m", [{}, {}, {}], {"states": OPEN}, "running"),
        ("alpha0", [{0: 3.0}, {0: 1.0}, {0: 2.0}], {}, "2"),
        ("alpha0", [{0: 3.0}, {0: 1.0}, {0: 1.0}], {}, "2≈"),
        ("alpha0", [{0: 3.0}, {0: 1.0}, {}], {"states": OPEN}, "2?"),
    ],
)
def test_format_ours_marks_what_is_provisional_or_tied(metric, losses, options, text):
    search = summary("lower", losses, **options)
    shown = ALPHA0 if metric == "alpha0" else search.metric
    entry = SimpleNamespace(metric=shown, ours=search.cell(shown), search=search)
    assert format_ours(entry) == text


def test_finished_runs_are_counted_over_entries():
    entries = [
        SimpleNamespace(ours=SimpleNamespace(states=states))
        for states in ((State.DONE, State.DIVERGED, State.FAILED), (State.RUNNING, State.DONE))
    ]
    assert format_finished_count(entries) == "3/5"
