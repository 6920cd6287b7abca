"""Text of a table's numbers: decimals, signs, states, and what the paper prints."""

import math

import pytest

from matched.aggregation import CellSummary
from matched.formatting import (
    MISSING,
    format_cell,
    format_delta,
    format_number,
    format_printed_cell,
    metric_name,
)
from matched.status import State
from matched.table import Metric

LOSS = Metric(key="loss", label="loss", direction="lower")
TOP1 = Metric(key="top1", label="top-1", unit="%", direction="higher")


def cell(*values, diverged=0, states=(State.DONE,), found=None):
    return CellSummary(
        values=dict(enumerate(values)), diverged=diverged, states=states, found=found
    )


def test_metric_name_has_the_unit_if_there_is_one():
    assert (metric_name(LOSS), metric_name(TOP1)) == ("loss", "top-1 %")


@pytest.mark.parametrize(
    ("metric", "value", "reference", "text"),
    [
        (LOSS, 0.12345, None, "0.123"),
        (LOSS, 0.9994, None, "0.999"),
        (LOSS, 1.0, None, "1.00"),
        (LOSS, 9.994, None, "9.99"),
        (LOSS, 10.0, None, "10.0"),
        (LOSS, -12.34, None, "-12.3"),
        (LOSS, -1.234, None, "-1.23"),
        (LOSS, 0.0123, 45.0, "0.0"),
        (LOSS, 0.0123, 4.5, "0.01"),
        (LOSS, 45.678, 0.5, "45.678"),
        (LOSS, 45.678, 0.0, "45.678"),
        (TOP1, 0.123, None, "0.1"),
        (TOP1, 5.678, None, "5.7"),
    ],
)
def test_format_number_decimals_suit_the_size(metric, value, reference, text):
    assert format_number(metric, value, reference) == text


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (cell(2.0), "2.00"),
        (cell(2.0, 4.0), "3.00 ± 1.41"),
        (cell(0.5, 0.5), "0.500 ± 0.000"),
        (cell(20.0, 20.1), "20.1 ± 0.1"),
        (cell(2.0, math.nan), "nan ± nan"),
        (cell(2.0, diverged=1, states=(State.DONE, State.DIVERGED)), "2.00 (1 diverged)"),
        (cell(2.0, diverged=1, states=(State.DIVERGED,)), "2.00 → diverged"),
        (cell(diverged=1, states=(State.DIVERGED, State.NEW)), "diverged"),
        (cell(2.0, 3.0, found=0.25), "0.25"),
        (cell(found=2.0), "2"),
        (cell(states=(State.NEW,)), MISSING),
        (cell(states=(State.QUEUED, State.RUNNING)), "running"),
        (cell(states=(State.RUNNING, State.FAILED)), "failed"),
        (cell(states=(State.FAILED, State.DAMAGED)), "damaged"),
        (cell(states=(State.NEW, State.QUEUED)), "queued"),
    ],
)
def test_format_cell_is_mean_spread_or_state(summary, text):
    assert format_cell(LOSS, summary) == text


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ({"top1": 82.3}, "82.3"),
        ({"top1": 82.3, "lr": 4e-3}, "82.3 (0.004)"),
        ({"top1": 82.3, "lr": 4e-3, "alpha0": 0.5}, "82.3 (0.004, 0.5)"),
        ({"lr": 4e-3}, MISSING),
        ({}, MISSING),
        ({"no_gain": True}, "no gain"),
        ({"diverged": True}, "diverged"),
        ({"top1": 40.1, "diverged": True}, "40.1 → diverged"),
    ],
)
def test_format_printed_cell_is_as_in_the_paper(printed, text):
    assert format_printed_cell(TOP1, printed) == text


def test_format_printed_cell_names_a_searched_value_once():
    alpha0 = Metric(key="alpha0", label="α0", direction="none")
    assert format_printed_cell(alpha0, {"alpha0": 0.5}) == "0.5"


@pytest.mark.parametrize(
    ("base", "delta", "text"),
    [
        (82.3, 0.2, "+0.2"),
        (82.3, -0.2, "-0.2"),
        (82.3, 0.04, "0.0"),
        (82.3, -0.04, "0.0"),
        (82.3, 0.0, "0.0"),
        (0.5, 0.04, "+0.040"),
        (2.5, -0.04, "-0.04"),
        (None, 0.2, MISSING),
        (82.3, None, MISSING),
    ],
)
def test_format_delta_has_a_sign_and_the_bases_decimals(base, delta, text):
    assert format_delta(LOSS, base, delta) == text
