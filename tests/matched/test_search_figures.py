"""Figures of searches, and claims on what they find."""

import csv
import io

import pytest

from matched.claims import Claim, Constant, Falls, NotWorse
from matched.report.collect import collect
from matched.report.figures.canvas import Canvas
from matched.report.verdicts import judge_claims
from matched.site import Site

from .search_projects import CLEAR, GRID, PAPER, TUNED, finish_trials, finish_tuned

FIGURES = '''
"""Figures of the tests."""

from matched.figure import BestAlpha0, PairsTried, Source, ValuesTried

FIGURES = {
    1: BestAlpha0(
        caption="Width",
        sources=(Source(title="ours", recipe="table1", row="small"),),
        printed={"a": ("first.table1", "small")},
        width="epochs",
    ),
    2: ValuesTried(caption="Tried", sources=(Source(title="Small", recipe="table2", row="small"),)),
    3: PairsTried(
        caption="Pairs", sources=(Source(title="S", recipe="table1", row="small", arms=("8",)),)
    ),
}
'''


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Write the data only; pictures take most of the time."""
    monkeypatch.setattr(Canvas, "save_pictures", lambda canvas, folder: [])


def draw(project, name):
    project.write("recipes/first/figures.py", FIGURES.lstrip())
    project.cli("figure", name)
    path = project.root / f"results/figures/{name}.smoke.csv"
    lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    return [tuple(line) for line in lines][1:]


def test_figure_of_best_alpha0_has_ours_and_the_papers(grid):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", {**CLEAR, "DyT": (1.0, 1.1)})
    ours, printed = "Our runs, smoke scale", "As printed in the paper"
    assert draw(grid, "fig1") == [
        (ours, "ours", "32", "1"),
        (ours, "ours", "64", "0.5"),
        (printed, "a", "8", "1"),
        (printed, "a", "16", "0.5"),
    ]


def test_figure_of_searches_names_missing_runs(grid):
    finish_trials(grid, "small", CLEAR)
    grid.write("recipes/first/figures.py", FIGURES.lstrip())
    message = grid.mistake("figure", "fig1")
    assert "needs runs that are not finished: small · 16 · 0.5 · seed 0" in message


def test_figure_of_values_tried_has_the_baseline(tuned):
    finish_tuned(tuned, {0.05: 91.0, 0.1: 92.0, 0.2: 93.5})
    assert draw(tuned, "fig2") == [
        ("Small", "LN", "", "top-1", "90.0", ""),
        ("Small", "DyT (tuned)", "0.05", "top-1", "91.0", ""),
        ("Small", "DyT (tuned)", "0.1", "top-1", "92.0", ""),
        ("Small", "DyT (tuned)", "0.2", "top-1", "93.5", ""),
    ]


PAIR_VALUES = 'values={"alpha0_attention": a, "alpha0_other": a / 2}'


def test_figure_of_pairs_tried_has_every_pair(grid):
    pairs = GRID.replace('values={"alpha0": a}', PAIR_VALUES)
    grid.recipe(pairs.replace('"alpha0", label', '"alpha0_other", label'))
    finish_trials(grid, "small", CLEAR)
    assert [line[:4] for line in draw(grid, "fig3")] == [
        ("S", "0.25", "0.5", "3.05"),
        ("S", "0.5", "1", "2.05"),
        ("S", "1", "2", "2.55"),
    ]


@pytest.mark.parametrize(
    ("wide", "falls", "constant"),
    [
        ({**CLEAR, "DyT": (1.0, 1.1)}, "supported", "supported"),  # 1 → 0.5
        ({**CLEAR, "own": (1.0, 1.1)}, "refuted", "supported"),  # 1 → 2
        ({**CLEAR, "own": (1.0, 3.1)}, "undecided", "undecided"),  # 1 → 2 and 1 → 1
    ],
)
def test_claims_on_searches_compare_best_values(grid, wide, falls, constant):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", wide)
    assert judge(grid, Falls(tables=("table1",), along="arms")) == falls
    assert judge(grid, Constant(tables=("table1",), along="arms")) == constant
    strict = Constant(tables=("table1",), along="arms", factor=1.5)
    assert judge(grid, strict) == ("refuted" if falls != "undecided" else "undecided")


@pytest.mark.parametrize("test", [Falls, Constant])
def test_claims_on_best_values_of_zero_are_undecided(grid, test):
    grid.recipe(GRID.replace("0.5: ", "0: "))
    for model in ("small", "large"):
        finish_trials(grid, model, {**CLEAR, "DyT": (1.0, 1.1)})
    assert judge(grid, test(tables=("table1",), along="arms")) == "undecided"


def judged_claim(project, test):
    claim = Claim(statement="It holds", source="Table 1", test=test)
    results = collect(project.root, Site(file=project.root / "site.toml"))
    ((judged,),) = judge_claims([claim], results)
    return judged


def judge(project, test):
    return judged_claim(project, test).verdict


def test_series_of_best_values_have_labels_of_their_scale(grid):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", {**CLEAR, "DyT": (1.0, 1.1)})
    along_arms = judged_claim(grid, Falls(tables=("table1", "table2"), along="arms"))
    assert [(part.label, part.detail) for part in along_arms.parts] == [
        (
            "α0, 32 (table1)",
            "best 1 → 0.5; falls per cell by 1.00 octaves, 95 % interval 1.00 to 1.00, 2 seeds",
        ),
        ("table2", "no runs at this scale"),
    ]
    along_rows = judged_claim(grid, Falls(tables=("table1",), along="rows"))
    assert along_rows.parts == (), "each arm has one row, which is no series"


def test_not_worse_than_the_tuned_arm_takes_its_printed_gain(tuned):
    tuned.recipe(TUNED.replace("seeds=(0,)", "seeds=(0, 1)"), name="first/table02")
    paper = PAPER.replace("no_gain = true", "top1 = 82.4, lr = 2e-1")
    tuned.write("recipes/paper.toml", paper)
    finish_tuned(tuned, {0.05: 91.0, 0.1: 92.0, 0.2: 90.05})
    test = NotWorse(tables=("table2",), arm="LN", than="DyT (tuned)")
    assert judge(tuned, test) == "refuted"  # 2 below, and the paper prints a gain of 0.1
    for planned in tuned.plan("table2").runs:
        (planned.directory / "result.json").unlink()
    finish_tuned(tuned, {0.05: 90.05, 0.1: 90.02, 0.2: 89.0})
    assert judge(tuned, test) == "supported"
