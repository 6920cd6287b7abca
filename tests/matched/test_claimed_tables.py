"""The command ``matched claims``: tables that claims name, hours that they take, verdicts."""

import pytest

CLAIMS = """
from matched.claims import Above, Better, CellKey, Claim, NotWorse

SMALL, LARGE = (CellKey(table="table1", row=row, arm="DyT") for row in ("small", "large"))
CLAIMS = (
    Claim(statement="DyT is level", source="Table 1", test=NotWorse(tables=("table1",))),
    Claim(statement="Large is better", source="here", test=Better(pairs=((LARGE, SMALL),))),
    Claim(statement="It is high", source="here", test=Above(cells=(SMALL,), metric="top1")),
    Claim(statement="More", source="here", test=None, missing="no recipe yet"),
)
"""


@pytest.fixture
def claimed(project):
    project.write("recipes/claims.py", CLAIMS)
    project.site("[local]\nworkers = 1\n")
    return project


def test_claims_lists_runs_to_do_and_hours(claimed):
    output = claimed.cli("claims")
    # 8 runs of half an hour.
    assert output.splitlines()[:2] == [
        "table1: 8 of 8 runs to do, 4.0 h",
        "Expected: 4.0 h here, one table after the other; shared runs count once",
    ]
    assert "more than a day" not in output
    assert claimed.cli("claims", "--names") == "table1\n"


def test_claims_of_more_than_a_day_are_told_so(claimed):
    claimed.recipe("TABLE = Table(arms=ARMS, scales=(scale(minutes=600, small=SMALL),))")
    expected, told = claimed.cli("claims").splitlines()[1:3]
    assert expected.startswith("Expected: 40.0 h here")
    assert told.startswith("That is more than a day. It can be interrupted at any time")


def test_claims_count_no_hours_for_tables_without_gpus(claimed):
    claimed.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=2, minutes=600, small=SMALL),))")
    output = claimed.cli("claims")
    assert output.startswith("table1: 4 of 4 runs to do, but it asks for 2 GPUs per run and this")
    assert "Expected" not in output
    assert "Expected: " in claimed.cli("claims", "--cluster", "slurm")


def test_claims_say_that_short_runs_count_as_a_minute(claimed):
    claimed.recipe("TABLE = Table(arms=ARMS, scales=(scale(minutes=1, small=SMALL),))")
    expected = claimed.cli("claims").splitlines()[1]
    assert expected.endswith("shared runs count once; runs of seconds count as a minute")


def test_claims_prints_verdicts_of_finished_runs(claimed):
    for seed in (0, 1):
        for model, norm, top1 in (
            ("small", "LN", 80.0),
            ("small", "DyT", 80.1),
            ("large", "LN", 82.0),
            ("large", "DyT", 82.1),
        ):
            claimed.finish(f"{model}.{norm}.{seed}", top1=top1 + seed)
    lines = claimed.cli("claims").splitlines()
    assert lines[0] == "supported: DyT is level"
    assert "supported: Large is better" in lines and "not run: More" in lines
    assert "    Small_1 (table1): supported, 0.1 %, 95 % interval 0.1 to 0.1, 2 seeds" in "\n".join(
        lines
    )


def test_claims_without_a_file_of_claims_says_so(project):
    assert project.cli("claims") == "No claims: recipes/claims.py is missing or empty\n"


@pytest.mark.parametrize(
    "arguments",
    [("--scale", "huge"), ("--cluster", "cloud"), ("--set", "lr=1"), ("--set", "data=images")],
)
def test_claims_refuses_wrong_options(claimed, arguments):
    assert arguments[1].split("=")[0] in claimed.mistake("claims", *arguments)
