"""The command ``matched claims``: tables that claims name, hours that they take, verdicts."""

import pytest

from matched import site
from matched.claims import Above, Better, CellKey, Claim, Falls, NotWorse
from matched.report.claimed_tables import claimed_tables, load_claims, own_recipes, table_names

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


# --- tables, their runs and hours

SMALL, LARGE, OWN = (
    CellKey(table=table, row=row, arm="DyT")
    for table, row in (("table1", "small"), ("early-table1", "small"), ("recipes/own.py", "small"))
)


@pytest.mark.parametrize(
    ("test", "names"),
    [
        (None, []),
        (NotWorse(tables=("table1", "table2")), ["table1", "table2"]),
        (
            Better(pairs=((SMALL, LARGE), (OWN, SMALL))),
            ["table1", "early-table1", "recipes/own.py", "table1"],
        ),
        (Above(cells=(OWN,), metric="top1"), ["recipes/own.py"]),
        (Falls(tables=("table3",), along="rows"), ["table3"]),
    ],
)
def test_table_names_of_a_test_come_from_tables_and_cells(test, names):
    assert list(table_names(test)) == names


def claims_on(*tests):
    return [Claim(statement="It holds", source="here", test=test) for test in tests]


BOTH = claims_on(Above(cells=(LARGE,), metric="top1"), NotWorse(tables=("table1", "early-table1")))


@pytest.fixture
def two_tables(project):
    """Two tables that share a row; the first has a scale of its own, too."""
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL, large=LARGE),"
        " scale('mini', seeds=(0,), small=Run(task='tiny:train', config=Config(epochs=2"
        ")))))"
    )
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))", "second/table01"
    )
    return project


def tables(project, claims=BOTH, scale="smoke", cluster="local"):
    found = claimed_tables(
        claims, project.root, site.read(project.root / site.FILE), scale=scale, cluster=cluster
    )
    return [(one.plan.recipe.name, len(one.plan.runs), one.hours) for one in found]


def test_claimed_tables_count_shared_runs_once_in_order(two_tables):
    assert tables(two_tables) == [("early-table1", 2, 1.0), ("table1", 2, 1.0)]
    assert tables(two_tables, BOTH[1:]) == [("table1", 4, 2.0), ("early-table1", 0, 0.0)]
    two_tables.finish("large.LN.0", top1=1.0)
    assert tables(two_tables, BOTH[1:])[0] == ("table1", 4, 1.5), "of the missing runs"
    assert tables(two_tables, scale="mini") == [("table1", 2, 1.0)]
    # On Slurm each run is a job of its own, and all start at once.
    assert tables(two_tables, cluster="slurm") == [("early-table1", 2, 0.5), ("table1", 2, 0.5)]


def test_hours_of_claims_are_those_of_the_cluster(project):
    """2 minutes of a GPU, or 10 hours of a core where there is none."""
    project.recipe(
        "EITHER = Resources(gpus=1, minutes=2, cpu_minutes=600)\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=(0,), small=SMALL), "
        "resources=EITHER),))"
    )
    claims = claims_on(NotWorse(tables=("table1",)))
    assert tables(project, claims) == [("table1", 2, 20.0)]
    assert tables(project, claims, cluster="slurm") == [("table1", 2, pytest.approx(2 / 60))]


def test_claimed_tables_leave_out_the_runs_of_all_earlier_ones(two_tables):
    path = two_tables.root / "recipes" / "paper.toml"
    more = '[second.table2]\ncaption = "C"\nmetrics = []\n[second.table2.rows.small]\nlabel = "S"\n'
    path.write_text(path.read_text(encoding="utf-8") + more, encoding="utf-8")
    two_tables.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))", "second/table02"
    )
    names = ("early-table1", "table1", "early-table2")
    claims = claims_on(NotWorse(tables=names))
    assert tables(two_tables, claims) == [(names[0], 2, 1.0), (names[1], 2, 1.0), (names[2], 0, 0)]


def test_claims_are_read_from_the_project(project):
    assert load_claims(project.root) == ()
    project.write("recipes/claims.py", CLAIMS.replace('"here"', '"there"'))
    assert [claim.source for claim in load_claims(project.root)] == ["Table 1", *["there"] * 3]
    assert own_recipes(project.root) == []
    project.write("recipes/claims.py", CLAIMS.replace('table="table1"', 'table="recipes/own.py"'))
    assert own_recipes(project.root) == ["recipes/own.py"]
