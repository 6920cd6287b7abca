"""Checks of config fields at the ends of their ranges."""

from types import SimpleNamespace

import pytest

from matched.checks import (
    check_choice,
    check_counts,
    check_divides,
    check_fractions,
    short_repr,
)
from matched.claims import Above, Claim


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


def test_counts_may_start_at_another_number():
    check_counts(SimpleNamespace(a=0, b=5), "a", "b", minimum=0)
    with pytest.raises(ValueError, match=r"^a is 4; expected a whole number of 5 or more$"):
        check_counts(SimpleNamespace(a=4), "a", minimum=5)


def test_values_in_messages_have_eighty_characters():
    assert short_repr("x" * 78) == f"'{'x' * 78}'"
    assert short_repr("x" * 79) == f"'{'x' * 79}…"


@pytest.mark.parametrize(
    ("test", "missing"), [(None, ""), (Above(cells=(), metric="top1"), "no recipe")]
)
def test_claim_has_a_test_or_names_what_is_missing(test, missing):
    Claim(statement="x", source="y", test=None, missing="no recipe")
    with pytest.raises(ValueError) as refusal:
        Claim(statement="DyT is level", source="Table 1", test=test, missing=missing)
    assert str(refusal.value) == (
        "claim 'DyT is level': give either a test, or what is missing for one"
    )
