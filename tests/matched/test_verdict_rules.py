"""Rules behind verdicts: intervals, thresholds, hardware, and the numbers in the detail."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from matched.aggregation import CellSummary
from matched.claims import Constant, Falls
from matched.report.verdicts import (
    Verdict,
    _above,
    _compare,
    _judge_one_series,
    _key,
    _largest_change,
    _spread,
)
from matched.status import State
from matched.table import Metric

LOSS = Metric(key="loss", label="loss", direction="lower")
TOP1 = Metric(key="top1", label="top-1", unit="%", direction="higher")
S, R, U, N = Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED, Verdict.NOT_RUN


def entry(*values, arm="DyT", metric=LOSS, matched="yes", hardware=None, diverged=0, found=None):
    states = (State.DONE,) * (len(values) - diverged) + (State.DIVERGED,) * diverged
    ours = CellSummary(
        values=dict(enumerate(values)), diverged=diverged, states=states, found=found
    )
    names = hardware or [""] * len(values)
    return SimpleNamespace(
        arm=arm, metric=metric, matched=matched, ours=ours, hardware=dict(enumerate(names))
    )


# t of 97.5 % for 2 degrees of freedom is 4.303: the half width for (1, 2, 3) is 2.48.
@pytest.mark.parametrize(
    ("values", "threshold", "verdict", "detail", "more"),
    [
        ((1.0, 2.0, 3.0), -0.5, S, "2.00, 95 % interval -0.48 to 4.48, 3 seeds", None),
        ((1.0, 2.0, 3.0), 4.5, R, "2.00, 95 % interval -0.48 to 4.48, 3 seeds", None),
        ((1.0, 2.0, 3.0), 4.4, U, "2.00, 95 % interval -0.48 to 4.48, 3 seeds", 1),
        ((1.0, 2.0, 3.0), 0.0, U, "2.00, 95 % interval -0.48 to 4.48, 3 seeds", 1),
        ((1.0, 2.0, 3.0), 2.0, U, "2.00, 95 % interval -0.48 to 4.48, 3 seeds", None),
        ((1.0, 1.0), 0.5, S, "1.00, 95 % interval 1.00 to 1.00, 2 seeds", None),
        ((1.0, 1.0), 1.0, U, "1.00, 95 % interval 1.00 to 1.00, 2 seeds", None),
        ((1.0,), 0.0, U, "1.00, 1 seed: an interval needs 2 at least", 1),
        ((), 0.0, N, "no finished runs", None),
        ((1.0, math.nan), 0.0, U, "a value is not a number", None),
    ],
)
def test_above_compares_the_interval_with_the_threshold(values, threshold, verdict, detail, more):
    part = _above("label", values, threshold, LOSS, 5.0)
    assert (part.label, part.verdict, part.detail) == ("label", verdict, detail)
    assert part.more_seeds == more and part.at_least == (len(values) == 1)


@pytest.mark.parametrize(
    ("better", "worse", "margin", "verdict"),
    [
        (entry(1.0, 1.1), entry(2.0, 2.1), 0.0, S),
        (entry(2.0, 2.1), entry(1.0, 1.1), 0.0, R),
        (entry(2.0, 2.1), entry(1.0, 1.1), 1.1, S),
        (entry(2.0, 2.1), entry(1.0, 1.1), 0.9, R),
        (entry(2.0, 2.1, metric=TOP1), entry(1.0, 1.1, metric=TOP1), 0.0, S),
        (entry(1.0, 1.1, metric=TOP1), entry(2.0, 2.1, metric=TOP1), 0.0, R),
        (entry(1.0, 5.0, 3.0), entry(1.5, 5.5, 3.5), 0.0, S),  # paired by seed
        (entry(1.0, 1.1, matched="no"), entry(2.0, 2.1), 0.0, U),
        (entry(1.0, 1.1), entry(2.0, 2.1, matched="no"), 0.0, U),
        (entry(1.0, 1.1, diverged=2), entry(2.0, 2.1), 0.0, R),
        (entry(9.0, 9.1), entry(2.0, 2.1, diverged=2), 0.0, S),
        (entry(1.0, 1.1, diverged=2), entry(2.0, 2.1, diverged=2), 0.0, U),
        (entry(1.0, 1.1, 1.2, diverged=1), entry(2.0, 2.1, 2.2), 0.0, U),
        (entry(2.0, 2.1, 2.2, diverged=1), entry(1.0, 1.1, 1.2), 0.0, R),
        (entry(1.0, 1.1), entry(), 0.0, N),
    ],
)
def test_compare_is_paired_and_follows_the_direction(better, worse, margin, verdict):
    assert _compare("label", better, worse, margin=margin).verdict is verdict


def test_compare_leaves_out_pairs_on_different_hardware():
    better = entry(1.0, 1.1, 9.0, hardware=["H100", "", "H100"])
    worse = entry(2.0, 2.1, 2.2, hardware=["H100", "A100", "A100"])
    part = _compare("label", better, worse, margin=0.25)
    assert part.verdict is S
    assert part.detail.endswith("2 seeds, margin 0.25, 1 more on different hardware")
    better, worse = entry(1.0, hardware=["H100"]), entry(2.0, hardware=["A100"])
    part = _compare("label", better, worse, margin=0.0)
    assert (part.verdict, part.detail) == (U, "no pair was computed on one hardware")


def test_decimals_of_a_difference_are_those_of_the_baseline():
    part = _compare("label", entry(9.9, 9.9), entry(10.4, 10.4), margin=0.0)
    assert part.detail.startswith("0.5, 95 % interval 0.5 to 0.5")


def test_compare_names_the_arm_and_its_diverged_seeds():
    part = _compare("label", entry(1.0, 1.0, 1.0, diverged=1), entry(2.0, 2.0, 2.0), margin=0.0)
    assert part.detail.endswith("3 seeds; DyT diverged in 1 seed")


def test_claims_name_tables_of_papers_and_files_of_recipes():
    own = SimpleNamespace(name="own", paper=None, path=Path("/project/recipes/own.py"))
    printed = SimpleNamespace(name="table1", paper="a paper", path=Path("/project/table01.py"))
    keys = [_key(SimpleNamespace(recipe=recipe), Path("/project")) for recipe in (own, printed)]
    assert keys == ["recipes/own.py", "table1"]


def test_spread_is_the_deviation_or_0():
    assert _spread(entry(1.0, 3.0)) == pytest.approx(math.sqrt(2))
    assert _spread(entry(1.0)) == _spread(entry(1.0, math.nan)) == 0.0


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({("a", "LN"): (80.0, None), ("a", "DyT"): (80.5, 0.5), ("b", "BN"): (70.0, -3.0)}, 0.5),
        ({("a", "LN"): (80.0, None), ("b", "DyT"): (80.5, 0.4), ("b", "BN"): (70.0, -3.0)}, 3.0),
        ({("a", "LN"): (None, None), ("a", "DyT"): (80.5, None)}, 0.0),
    ],
)
def test_largest_change_is_between_the_arms_of_the_test_first(cells, expected):
    entries = [
        SimpleNamespace(
            row=row,
            arm=arm,
            metric=metric,
            printed={} if value is None else {"loss": value},
            printed_delta=delta if metric is LOSS else 99.0,
        )
        for (row, arm), (value, delta) in cells.items()
        for metric in (LOSS, TOP1)
    ]
    table = SimpleNamespace(summary=SimpleNamespace(entries=entries))
    assert _largest_change(table, "loss", "DyT", "LN") == expected


@pytest.mark.parametrize(
    ("test", "seeds", "verdict", "detail"),
    [
        # Two seeds that halve α0 from cell to cell: one octave per cell.
        ("falls", [(1.0, 0.5, 0.25)] * 2, S, "best 1 → 0.5 → 0.25; falls per cell by 1.00 octaves"),
        (
            "falls",
            [(0.25, 0.5, 1.0)] * 2,
            R,
            "best 0.25 → 0.5 → 1; falls per cell by -1.00 oct",
        ),
        ("constant", [(1.0, 2.0)] * 2, S, "best 1 → 2; within a factor of 2.5 by 0.32 octaves"),
        ("constant", [(1.0, 2.5)] * 2, S, "best 1 → 2.5; within a factor of 2.5 by 0.00 octaves"),
        ("constant", [(1.0, 4.0)] * 2, R, "best 1 → 4; within a factor of 2.5 by -0.68 octaves"),
        ("falls", [(1.0, 0.5)], U, "best 1 → 0.5; falls per cell by 1.00 octaves, 1 seed"),
        (
            "falls",
            [(1.0, 0.5), (1.0, 0.0)],
            *(U, "best 1 → 0.5; a best value of 0 or below has no logarithm to compare"),
        ),
    ],
)
def test_series_of_best_values_in_octaves(test, seeds, verdict, detail):
    kinds = {"falls": Falls, "constant": Constant}
    rule = kinds[test](tables=("t",), along="rows")
    cells = [entry(*values, found=values[0]) for values in zip(*seeds, strict=True)]
    part = _judge_one_series(rule, "label", cells)
    assert part.verdict is verdict and part.detail.startswith(detail)
