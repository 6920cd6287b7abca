"""Words of messages: lists of known names."""

import pytest

from matched.wording import match_name


def test_match_name_ignores_upper_and_lower_case():
    assert match_name("dyt", ["LN", "DyT"], "arm") == "DyT"


def test_match_name_separates_names_with_commas_by_semicolons():
    with pytest.raises(ValueError) as error:
        match_name("DyT,", ["LN", "DyT, kernel"], "arm")
    assert str(error.value) == "unknown arm: 'DyT,'; known, nearest first: DyT, kernel; LN"
