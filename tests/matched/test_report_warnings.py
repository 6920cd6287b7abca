"""Warnings and lists of the report: mixed commits, long lists, commits of runs, listed runs."""

import json
from types import SimpleNamespace

import pytest

from matched.report import page
from matched.report.collect import _mixed, _shortened, commit_of, mixed_over_tables
from matched.run_directory import RunFiles
from matched.status import RunStatus, State

from .test_report import finish_all, warnings


def planned(state, signature=""):
    return SimpleNamespace(
        status=RunStatus(state=state), run=SimpleNamespace(signature=signature), cells=(1,)
    )


@pytest.mark.parametrize(
    ("names", "warnings"),
    [
        ({}, []),
        ({"a": "", "b": "x"}, []),
        ({"a": "x", "b": "x"}, []),
        (
            {"a": "y", "b": "x", "c": "x", "d": ""},
            ["Mixed commits: the runs were computed by x (2 runs), y (1 run)"],
        ),
    ],
)
def test_mixed_counts_known_names_most_frequent_first(names, warnings):
    assert _mixed("commits", "by", names) == warnings


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "0"),
        (5, "0, 1, 2, 3, 4"),
        (6, "0, 1, 2, 3, 4 and 1 more"),
        (9, "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_long_lists_name_five_and_count_the_others(count, text):
    assert _shortened([str(i) for i in range(count)]) == text


def test_runs_that_tables_share_count_once_per_scale():
    def table(scale, *finished):
        runs = [planned(State.DONE, signature) for signature in finished]
        for run in runs:
            run.status = RunStatus(state=State.DONE, result={"hardware": "CPU"})
        plan = SimpleNamespace(runs=runs)
        commits = {signature: signature[0] for signature in finished}
        return SimpleNamespace(scale=SimpleNamespace(name=scale), plan=plan, commits=commits)

    tables = [table("smoke", "a1", "b1"), table("smoke", "a1", "a2"), table("paper", "c1", "c2")]
    assert mixed_over_tables(tables) == [
        "All tables of smoke scale: Mixed commits: the runs were computed by a (2 runs), b (1 run)"
    ]


COMMIT = "0123456789abcdef"


@pytest.mark.parametrize(
    ("environment", "commit"),
    [
        ({"commit": COMMIT}, "0123456789"),
        ({"commit": COMMIT, "submitted": {"uncommitted": True}}, "0123456789+"),
        ({"commit": COMMIT, "submitted": {"uncommitted": False}}, "0123456789"),
        ({"commit": None, "submitted": {"commit": COMMIT}}, "0123456789"),
        ({"commit": None, "submitted": {"uncommitted": True}}, ""),
        ({"commit": None, "submitted": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_commit_of_a_run_marks_uncommitted_changes(tmp_path, environment, commit):
    if environment is not None:
        (tmp_path / "environment.json").write_text(json.dumps(environment))
    run = SimpleNamespace(directory=RunFiles(tmp_path))
    assert commit_of(run) == commit
    (tmp_path / "environment.json").write_text("{")
    assert commit_of(run) == ""


def test_listed_runs_include_all_that_need_attention(monkeypatch):
    monkeypatch.setattr(page, "LISTED", 2)
    runs = [planned(state) for state in (State.DONE, State.NEW, *State)]
    listed = page._listed(runs)
    assert listed[:2] == runs[:2]
    assert [run.status.state for run in listed[2:]] == [
        State.QUEUED,
        State.RUNNING,
        State.FAILED,
        State.DAMAGED,
    ]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a", "a"),
        ("run `make <x>` & `b`", "run <code>make &lt;x&gt;</code> &amp; <code>b</code>"),
        ("a ` b", "a ` b"),
    ],
)
def test_backticks_become_code(text, html):
    assert str(page.code(text)) == html


def test_counts_of_states_are_in_their_order():
    states = (State.DONE, State.FAILED, State.DONE, State.NEW)
    runs = [planned(state) for state in states]
    table = SimpleNamespace(
        plan=SimpleNamespace(runs=runs), count=lambda state: states.count(state)
    )
    assert page._counts(table) == "4 runs: 1 new, 1 failed, 2 done"


def test_report_knows_the_runs_of_every_scale(project):
    finish_all(project)
    smoke = "scale(seeds=(0,), small=SMALL)"
    paper = "replace(scale(seeds=(1,), small=SMALL), name='paper')"
    project.recipe(f"TABLE = Table(arms=ARMS, scales=({smoke}, {paper}))")
    assert not any("of no table here" in warning for warning in warnings(project))
