"""The commands report, claims and figure: what they pass on and print, and texts of help."""

import re
from importlib import import_module
from types import SimpleNamespace

import pytest

from matched import report
from matched.cli import _parser
from matched.report import claim_texts, claimed_tables, figure_list, figures, verdicts

collect = import_module("matched.report.collect")  # matched.report has a function of this name


@pytest.fixture
def calls(monkeypatch):
    """Return a function that replaces functions by one that records its arguments and answers."""
    recorded = []

    def replace(place, name, answer):
        def record(*arguments, **options):
            recorded.append((name, arguments, options))
            return answer

        monkeypatch.setattr(place, name, record)
        return recorded

    return replace


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {"scale": None, "tables": [], "arms": [], "changes": [], "page": True}),
        (
            ("--scale", "mini", "--tables", "a", "b", "--with", "Derf", "--set", "data=x"),
            {
                "scale": "mini",
                "tables": ["a", "b"],
                "arms": ["Derf"],
                "changes": ["data=x"],
                "page": True,
            },
        ),
        (
            ("--summary",),
            {"scale": None, "tables": [], "arms": [], "changes": [], "page": False},
        ),
    ],
)
def test_report_prints_the_lines_of_write_report(project, calls, arguments, options):
    recorded = calls(report, "write_report", ["first", "second"])
    assert project.cli("report", *arguments) == "first\nsecond\n"
    ((_, (folder, settings), passed),) = recorded
    assert (folder, settings.file, passed) == (project.root, project.root / "site.toml", options)


def test_claims_passes_its_options_and_prints_plan_verdicts_and_warnings(project, calls):
    calls(claimed_tables, "load_claims", "the claims")
    calls(claimed_tables, "claimed_tables", "the tables")
    calls(collect, "collect", SimpleNamespace(tables="results of tables"))
    calls(verdicts, "judge_claims", "the verdicts")
    calls(claim_texts, "plan_lines", ["plan"])
    calls(claim_texts, "verdict_lines", ["verdict 1", "verdict 2"])
    recorded = calls(collect, "mixed_over_tables", ["two commits"])
    options = ("--scale", "MINI", "--cluster", "slurm", "--with", "Derf", "--set", "data=x")
    assert project.cli("claims", *options) == "plan\nverdict 1\nverdict 2\ntwo commits\n"
    passed = {name: (arguments, options) for name, arguments, options in recorded}
    settings = passed["collect"][0][1]
    given = {"changes": ["data=x"], "arms": ["Derf"], "scale": "mini"}
    assert settings.file == project.root / "site.toml"
    assert passed == {
        "load_claims": ((project.root,), {}),
        "claimed_tables": (
            ("the claims", project.root, settings),
            {**given, "cluster": "slurm"},
        ),
        "collect": ((project.root, settings), given),
        "plan_lines": (("the tables", "slurm"), {}),
        "judge_claims": (("the claims", SimpleNamespace(tables="results of tables")), {}),
        "verdict_lines": (("the verdicts",), {}),
        "mixed_over_tables": (("results of tables",), {}),
    }


def test_claims_names_are_arguments_of_make(project, calls):
    calls(claimed_tables, "load_claims", "the claims")
    calls(claimed_tables, "claimed_tables", ["one", "two"])
    recorded = calls(claim_texts, "make_arguments", "table1")
    assert project.cli("claims", "--names", "--with", "Derf") == "table1\ntable1\n"
    assert [arguments for name, arguments, _ in recorded if name == "make_arguments"] == [
        ("one", project.root, ["Derf"]),
        ("two", project.root, ["Derf"]),
    ]


@pytest.mark.parametrize(
    ("finding", "last"), [("", ""), ("2 of 3 are S-shaped", "2 of 3 are S-shaped\n")]
)
def test_figure_prints_its_files_and_its_finding(project, calls, finding, last):
    recorded = []
    drawer = SimpleNamespace(
        draw=lambda *where: recorded.append(where) or ["a.svg", "a.csv"],
        finding=lambda name: recorded.append(name) or finding,
    )
    made = calls(figures, "FigureDrawer", drawer)
    told = project.cli("figure", "fig2", "--scale", "Mini")
    assert told == f"Written: a.svg\nWritten: a.csv\n{last}"
    ((_, (folder, settings, scale), _),) = made
    assert (folder, settings.file, scale) == (project.root, project.root / "site.toml", "mini")
    assert recorded == [("fig2", project.root / "results" / "figures"), "fig2"]


def test_figure_needs_prints_a_recipe_per_line(project, calls):
    calls(figure_list, "find", "the figure")
    recorded = calls(figure_list, "needed_recipes", ["table1", "first/analysis.py"])
    assert project.cli("figure", "fig2", "--needs") == "table1\nfirst/analysis.py\n"
    assert [arguments for _, arguments, _ in recorded] == [(project.root, "fig2"), ("the figure",)]


SCALES = "smoke, mini, paper"
WITH = "this arm of recipes/extra_arms.py too, such as Derf, where a table can have it"


@pytest.mark.parametrize(
    ("command", "option", "text"),
    [
        ("plan", "--scale", f"{SCALES} (default smoke)"),
        ("plan", "--cluster", "debug, local, slurm (default local)"),
        ("report", "--scale", f"{SCALES} (default: all)"),
        ("report", "--with", f"show {WITH}"),
        ("claims", "--scale", f"{SCALES} (default smoke)"),
        ("claims", "--with", f"count {WITH}"),
        ("figure", "--scale", f"{SCALES} (default smoke)"),
        ("run", "--value", "a value that a search tries, such as 0.5 (default: its first)"),
        ("run", "--seed", "a seed of the table (default: its first)"),
        ("cancel", "--value", "a value that a search tries, such as 0.5 (default: all)"),
        ("cancel", "--seed", "a seed of the table (default: all)"),
    ],
)
def test_help_names_choices_and_defaults(command, option, text, capsys):
    with pytest.raises(SystemExit) as end:
        _parser().parse_args([command, "--help"])
    assert end.value.code == 0
    described = " ".join(capsys.readouterr().out.split())
    assert re.search(rf" {option} [A-Z]+ {re.escape(text)}", described)


HELP = {
    "list": "the tables that have a recipe",
    "plan": "show the runs of a table and the requests of a submission",
    "submit": "submit what is missing",
    "status": "show the state of every run",
    "table": "print the summary table and write it to results/",
    "export": "write the training curves of all runs for TensorBoard",
    "report": "write results/report/index.html and results/summary.* over all tables",
    "claims": "show the tables that the claims need, what they have to do, and the verdicts so far",
    "figure": "draw a figure of a paper from the results of its runs",
    "audit": "show what differs between the runs of every pair",
    "logs": "print the log of a run",
    "retry": "run failed and damaged runs again",
    "cancel": "stop runs that are queued or running",
    "run": "run one cell here, in the foreground",
}


def test_help_describes_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        _parser().parse_args(["--help"])
    told = capsys.readouterr().out
    assert told.startswith("usage: matched [-h] command ...\n\nThe command ``matched``: plan,")
    assert dict(re.findall(r"^    (\w+) +(.+)", told, re.MULTILINE)) == HELP
