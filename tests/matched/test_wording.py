"""Words of messages: lists of known names."""

import pytest

from matched.wording import counted, known_names, match_name


def test_match_name_ignores_upper_and_lower_case():
    assert match_name("dyt", ["LN", "DyT"], "arm") == "DyT"


def test_match_name_separates_names_with_commas_by_semicolons():
    with pytest.raises(ValueError) as error:
        match_name("DyT,", ["LN", "DyT, kernel"], "arm")
    assert str(error.value) == "unknown arm: 'DyT,'; known, nearest first: DyT, kernel; LN"


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_counted_has_the_noun_in_its_number(number, text):
    assert counted(number, "run") == text


def test_known_names_are_all_listed_nearest_first():
    names = ["LN", "table12", "table1"]
    assert known_names("tabel1", names) == "known, nearest first: table1, table12, LN"
    assert known_names("x", []) == "known, nearest first: none"
