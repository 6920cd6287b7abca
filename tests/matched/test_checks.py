"""Checks of config fields at the ends of their ranges."""

from types import SimpleNamespace

import pytest

from matched.checks import check_choice, check_counts, check_divides, check_fractions


@pytest.mark.parametrize("value", [1, 2, 10**9])
def test_counts_are_whole_numbers_from_1(value):
    check_counts(SimpleNamespace(a=value, b=1), "a", "b")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_other_counts_are_refused(value):
    message = f"b is {value!r}; expected a whole number of 1 or more"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_counts(SimpleNamespace(a=1, b=value), "a", "b")


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_fractions_are_from_0_to_1(value):
    check_fractions(SimpleNamespace(a=value), "a")


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, float("nan")])
def test_other_fractions_are_refused(value):
    with pytest.raises(ValueError, match=r"^b is .*; expected 0 to 1$"):
        check_fractions(SimpleNamespace(a=0.5, b=value), "a", "b")


def test_choices_are_named_in_the_message():
    check_choice(SimpleNamespace(a="y"), "a", ("x", "y", "z"))
    with pytest.raises(ValueError, match=r"^a is 'w'; expected 'x', 'y' or 'z'$"):
        check_choice(SimpleNamespace(a="w"), "a", ("x", "y", "z"))


def test_divisors_leave_nothing_over():
    check_divides("part", 4, "whole", 12)
    message = r"^part 5 does not divide whole 12: 2 would be left over$"
    with pytest.raises(ValueError, match=message):
        check_divides("part", 5, "whole", 12)
