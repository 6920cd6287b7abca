"""Arguments of every command: their defaults, and which are required."""

from pathlib import Path

import pytest

from matched.cli import _parser

TABLE = {"table": "table1", "scale": "smoke", "extra_arms": [], "changes": []}
SUBMITTED = {**TABLE, "wait": False, "snapshot": False, "cluster": "local"}
ANY_CELL = {**TABLE, "row": None, "arm": None, "value": None, "seed": None}
REPORT = {"scale": None, "tables": [], "extra_arms": [], "changes": [], "summary": False}
CLAIMS = {"scale": "smoke", "cluster": "local", "extra_arms": [], "changes": [], "names": False}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("list", {}),
        ("plan table1", {**TABLE, "cluster": "local"}),
        ("submit table1", SUBMITTED),
        ("retry table1", SUBMITTED),
        ("status table1", {**TABLE, "watch": False}),
        ("table table1", TABLE),
        ("audit table1", TABLE),
        ("export table1 --tensorboard a", {**TABLE, "tensorboard": Path("a")}),
        ("logs abc", {"signature": "abc", "follow": False}),
        ("cancel table1", ANY_CELL),
        ("run table1 --row a --arm b", {**ANY_CELL, "row": "a", "arm": "b"}),
        ("report", REPORT),
        ("claims", CLAIMS),
        ("figure fig2", {"figure": "fig2", "scale": "smoke", "needs": False}),
        (
            "submit table1 --wait --snapshot --cluster slurm --scale paper",
            {**SUBMITTED, "wait": True, "snapshot": True, "cluster": "slurm", "scale": "paper"},
        ),
        ("status table1 -w", {**TABLE, "watch": True}),
        ("logs abc -f", {"signature": "abc", "follow": True}),
        (
            "plan table1 --set lr=1 --set a=2 --with Derf --with BN",
            {**TABLE, "cluster": "local", "changes": ["lr=1", "a=2"], "extra_arms": ["Derf", "BN"]},
        ),
        ("cancel table1 --seed -1 --value 0.5", {**ANY_CELL, "seed": -1, "value": "0.5"}),
        (
            "report --tables a b --set data=x --with Derf --summary",
            {
                **REPORT,
                "tables": ["a", "b"],
                "changes": ["data=x"],
                "extra_arms": ["Derf"],
                "summary": True,
            },
        ),
        ("claims --set data=x --names", {**CLAIMS, "changes": ["data=x"], "names": True}),
        ("figure fig2 --needs", {"figure": "fig2", "scale": "smoke", "needs": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_and_defaults_of_commands(arguments, expected):
    given = vars(_parser().parse_args(arguments.split()))
    assert callable(given.pop("do"))
    assert given == expected


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ("", "command"),
        ("plan", "table"),
        ("export table1", "--tensorboard"),
        ("run table1 --row a", "--arm"),
        ("run table1 --arm b", "--row"),
        ("logs", "signature"),
        ("figure", "figure"),
    ],
)
def test_required_arguments(arguments, missing, capsys):
    with pytest.raises(SystemExit) as end:
        _parser().parse_args(arguments.split())
    assert end.value.code == 2
    name = " ".join(["matched", *arguments.split()[:1]])
    assert capsys.readouterr().err == (
        f"matched: error: the following arguments are required: {missing}; see `{name} --help`\n"
    )
