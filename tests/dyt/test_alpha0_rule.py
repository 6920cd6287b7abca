"""Tests of `suggested_alpha0`: the papers' values, and monotonic values between and below them."""

import tomllib
from pathlib import Path

import pytest

from dyt import suggested_alpha0

PAPERS = tomllib.loads(
    (Path(__file__).parents[2] / "recipes" / "paper.toml").read_text(encoding="utf-8")
)
ROWS = PAPERS["cvpr2025"]["table12"]["rows"].values()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["label"])
def test_suggested_alpha0_equals_table_12(row):
    assert suggested_alpha0(row["width"], "attention") == row["32"]["alpha0_attention"]
    assert suggested_alpha0(row["width"]) == row["32"]["alpha0_other"]


def test_suggested_alpha0_never_grows_with_width():
    for part in ("attention", "other"):
        values = [suggested_alpha0(width, part) for width in range(16, 10_000, 16)]
        assert values == sorted(values, reverse=True)


def test_suggested_alpha0_of_narrow_and_wide_networks():
    assert suggested_alpha0(64) == pytest.approx(2.0)
    assert suggested_alpha0(216) == pytest.approx((512 / 216) ** (1 / 3))
    assert suggested_alpha0(8) == 2.0
    assert suggested_alpha0(5120, "attention") == 0.6
    assert suggested_alpha0(100_000) == 0.05


def test_suggested_alpha0_between_widths_is_linear_in_the_logarithms():
    assert suggested_alpha0(2896) == pytest.approx((0.5 * 0.2) ** 0.5, rel=1e-3)
    assert suggested_alpha0(2896, "attention") == pytest.approx(0.8**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "width = 0"), ((True,), "width"), ((64, "mlp"), "part")]
)
def test_suggested_alpha0_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        suggested_alpha0(*arguments)
