"""Searches: the best value of a cell, all values tried, ties, divergence, and what is refused."""

import csv
import io
from dataclasses import dataclass

import pytest

from matched import Run, Search, Trial, recipes
from matched.audit import audit_pairs
from matched.claims import Claim, Constant, Falls, NotWorse
from matched.report.collect import collect
from matched.report.verdicts import judge_claims
from matched.site import Site
from matched.summary_table import summary_table


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: str


PAPER = """
[first]
venue = "Venue 2025"
prefix = ""
[first.table1]
caption = "Best α0"
metrics = [{ key = "alpha0", label = "α0", unit = "", direction = "none" }]
axes = { rows = "width", arms = "depth" }
[first.table1.rows.small]
label = "1024"
"8" = { alpha0 = 1.0 }
"16" = { alpha0 = 0.5 }
[first.table2]
caption = "Tuned learning rate"
metrics = [{ key = "top1", label = "top-1", unit = "%", direction = "higher" }]
[first.table2.rows.small]
label = "Small"
LN = { top1 = 82.3, lr = 4e-3 }
"DyT (tuned)" = { no_gain = true }
"""

GRID = """
from matched import Search, Trial
ALPHAS = {0.5: "DyT", 1: "LN", 2: "own"}


def search(model, width):
    return Search(
        metric="loss",
        trials=tuple(
            Trial(
                values={"alpha0": a},
                run=Run(task="tiny:train", config=Config(model=model, norm=norm, epochs=width)),
            )
            for a, norm in ALPHAS.items()
        ),
    )


METRICS = (
    Metric(key="alpha0", label="α0", direction="none"),
    Metric(key="loss", label="loss", direction="lower"),
)
SCALE = replace(
    scale(seeds=(0, 1), small={"8": search("small", 32), "16": search("large", 64)}),
    metrics=METRICS,
    labels={"small": "32", "8": "2"},
)
TABLE = Table(arms=(Arm(name="8"), Arm(name="16")), scales=(SCALE,))
"""
"""The norm stands for α0 and the epochs for the width, which the stand-in's config lacks."""

TUNED = """
from matched import Search, Trial


def trial(lr, norm):
    return Trial(values={"lr": lr}, run=replace(SMALL, config=replace(SMALL.config, lr=lr)))


def tuned(norm, *rates):
    return Search(
        metric="top1", trials=tuple(trial(lr, norm) for lr in rates), original={"lr": 0.1}
    )


ROW = {"LN": SMALL, "DyT (tuned)": tuned("DyT", 0.05, 0.1, 0.2)}
TABLE = Table(
    arms=(Arm(name="LN", norm="LN"), Arm(name="DyT (tuned)", norm="DyT")),
    allowed_differences={"lr": "it is tuned"},
    scales=(scale(seeds=(0,), small=ROW),),
)
"""


@pytest.fixture
def grid(project):
    project.write("recipes/paper.toml", PAPER)
    project.recipe(GRID)
    return project


@pytest.fixture
def tuned(project):
    project.write("recipes/paper.toml", PAPER)
    project.recipe(TUNED, name="first/table02")
    (project.root / "recipes/first/table01.py").unlink()
    return project


def finish_trials(project, model, losses):
    """Finish the runs of a search: norm → loss by seed; "diverged" for a run that diverged."""
    for norm, values in losses.items():
        for seed, value in enumerate(values):
            if value == "diverged":
                project.finish(f"{model}.{norm}.{seed}", outcome="diverged")
            elif value is not None:
                project.finish(f"{model}.{norm}.{seed}", loss=value)


CLEAR = {"DyT": (3.0, 3.1), "LN": (2.0, 2.1), "own": (2.5, 2.6)}


def shown(project):
    """Return the cells of both arms, those of the paper, and the row's count and mark."""
    ours, printed = summary_table(project.plan()).rows
    return ours[2:4], printed[2:4], ours[4:]


def tried(project, table="table1"):
    """Return the records of all trials as a CSV reader has them."""
    summary = summary_table(project.plan(table))
    project.cli("table", table)
    path = project.root / f"results/{table}.smoke.tried.csv"
    lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert len(lines) == len(summary.tried.records)
    return lines


# --- the best value


def test_search_shows_the_best_value_beside_the_papers(grid):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", {**CLEAR, "own": (1.0, 1.1)})
    table = summary_table(grid.plan())
    assert table.header == ("α0 by width and depth", "source", "2 (8)", "16", "runs", "matched")
    assert table.rows[0] == ("32", "ours", "1", "2", "12/12", "yes")
    assert table.rows[1] == ("1024", "paper", "1.0", "0.5", "", "")


def test_search_marks_values_within_the_spread_of_seeds(grid):
    finish_trials(grid, "small", {**CLEAR, "own": (2.3, 1.9)})
    assert shown(grid)[0] == ("1≈", "—")
    verdicts = {line["value"]: line["verdict"] for line in tried(grid) if line["arm"] == "8"}
    assert verdicts == {"0.5": "", "1": "best", "2": "tied"}
    text = summary_table(grid.plan()).tried.rows[0][-1]
    assert "1: 2.05 ± 0.071 best" in text and "2: 2.1 ± 0.28 ≈" in text
    assert text.endswith("(best by seed: 1, 2)")


def test_search_says_that_the_best_is_the_largest_tried(grid):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", {**CLEAR, "own": (1.0, 1.1)})
    (note,) = [note for note in summary_table(grid.plan()).notes if "may be beyond" in note]
    assert note.endswith("beyond: 32, 16.")  # row 32, arm 16: 2 of 0.5, 1 and 2


def test_search_before_all_trials_ended_is_provisional(grid):
    finish_trials(grid, "small", {"DyT": (3.0, 3.1), "LN": (2.0, None)})
    assert shown(grid) == (("1?", "—"), ("1.0", "0.5"), ("3/12", "—"))
    assert any(note.startswith("?:") for note in summary_table(grid.plan()).notes)


def test_search_never_chooses_a_value_with_a_diverged_seed(grid):
    finish_trials(grid, "small", {**CLEAR, "LN": (2.0, "diverged")})
    assert shown(grid)[0][0] == "2"
    (line,) = [line for line in tried(grid) if (line["arm"], line["value"]) == ("8", "1")]
    assert (line["verdict"], line["seeds_diverged"], line["mean"]) == ("diverged", "1", "2.0")


def test_search_whose_runs_all_diverged_says_so(grid):
    finish_trials(grid, "small", dict.fromkeys(CLEAR, ("diverged", "diverged")))
    table = summary_table(grid.plan())
    assert table.rows[0][2] == "diverged"
    assert table.tried.rows[0][-1] == "0.5: diverged · 1: diverged · 2: diverged"
    (entry, *_) = table.entries
    assert entry.ours.mean is None and entry.ours.diverged == len(entry.ours.states) == 6


def test_search_ignores_losses_that_are_not_numbers(grid):
    finish_trials(grid, "small", {**CLEAR, "LN": (2.0, float("nan"))})
    assert shown(grid)[0][0] == "2"


# --- all values


def test_search_writes_every_value_to_csv(grid):
    finish_trials(grid, "small", CLEAR)
    lines = tried(grid)
    assert [(line["arm"], line["value"]) for line in lines] == [
        (arm, value) for arm in ("8", "16") for value in ("0.5", "1", "2")
    ]
    assert lines[0] | {"signatures": ""} == {
        "table": "table1", "scale": "smoke", "row": "small", "model": "32", "arm": "8",
        "value": "0.5", "alpha0": "0.5", "metric": "loss", "direction": "lower", "mean": "3.05",
        "std": lines[0]["std"], "difference": "1.0", "verdict": "", "seeds_best": "0",
        "seeds_with_value": "2", "seeds_planned": "2", "seeds_diverged": "0",
        "states": "done done", "changes": "", "signatures": "",
    }  # fmt: skip
    assert lines[1]["seeds_best"] == "2"
    markdown = (grid.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    assert "#### Values tried" in markdown and "1: 2.05 ± 0.071 best" in markdown


def test_search_is_one_record_of_the_table(grid):
    finish_trials(grid, "small", CLEAR)
    alpha0, loss = summary_table(grid.plan()).records[:4:2]
    assert (alpha0["metric"], alpha0["mean"], alpha0["best"]) == ("alpha0", 1, "1")
    assert (loss["metric"], loss["mean"], loss["seeds_planned"]) == ("loss", 2.05, 6)
    assert len(alpha0["signatures"].split()) == 6


# --- a tuned arm beside the original


def finish_tuned(project, rates):
    project.cli("plan", "table2")
    plan = project.plan("table2")
    for planned in plan.runs:
        directory = planned.directory
        directory.prepare()
        value = 90.0 if planned.run.config.norm == "LN" else rates[planned.run.config.lr]
        (directory / "fingerprint.json").write_text('{"weights": "w", "batches": ["b"]}')
        directory.write_result({"outcome": "done", "metrics": {"top1": value}, "steps": 1})


def test_tuned_arm_shows_its_gain_and_value(tuned):
    finish_tuned(tuned, {0.05: 91.0, 0.1: 92.0, 0.2: 93.5})
    assert summary_table(tuned.plan("table2")).rows == (
        ("Small", "90.0", "93.5 (0.2)", "+3.5", "82.3 (0.004)", "no gain", "—", "4/4", "yes"),
    )


def test_tuned_arm_without_gain_says_so(tuned):
    finish_tuned(tuned, {0.05: 91.0, 0.1: 92.0, 0.2: 92.0})
    table = summary_table(tuned.plan("table2"))
    assert table.rows[0][2] == "no gain≈"
    (record,) = [r for r in table.records if r["arm"] == "DyT (tuned)"]
    assert (record["mean"], record["best"], record["delta"]) == (92.0, "0.1", 2.0)


def test_search_shares_runs_with_other_tables(tuned):
    tuned.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    paper = PAPER + '[first.table1.rows.other]\nlabel = "Other"\n'
    tuned.write("recipes/paper.toml", paper.replace("alpha0", "top1"))
    shared = {planned.run for planned in tuned.plan("table1").runs}
    runs = tuned.plan("table2").runs
    assert len(runs) == 4 and len(shared & {planned.run for planned in runs}) == 2


# --- matching


def test_trials_are_matched_with_each_other(grid):
    finish_trials(grid, "small", CLEAR)
    pairs = [pair for pair in audit_pairs(grid.plan()) if pair.arm == "8"]
    assert {(pair.base_column, pair.column) for pair in pairs} == {
        ("8 · 0.5", "8 · 1"),
        ("8 · 0.5", "8 · 2"),
    }
    assert {pair.verdict for pair in pairs} == {"matched"}


def test_trial_with_other_weights_is_not_matched(grid):
    finish_trials(grid, "small", CLEAR)
    path = grid.directory("small.own.1") / "fingerprint.json"
    path.write_text('{"weights": "other", "batches": ["b"]}')
    table = summary_table(grid.plan())
    assert table.rows[0][-1] == "no"
    assert any("NOT MATCHED: small, 8 · 2, seed 1" in warning for warning in table.warnings)


def test_trials_that_differ_in_more_are_refused(grid):
    grid.recipe(GRID.replace("epochs=width)", "epochs=width + (a == 2))"))
    assert "the arms 8 · 0.5 and 8 · 2 are not matched" in grid.mistake("plan", "table1")


# --- commands


def test_search_runs_are_submitted_and_retried(grid):
    grid.trouble("raise", "small.LN.0")
    assert "12 of 12 runs" in grid.compute("submit", "table1", "--cluster", "debug", code=1)
    (failed,) = [
        line for line in grid.cli("status", "table1", code=1).splitlines() if "failed" in line
    ]
    assert failed.strip().startswith("small · 8 · 1 · seed 0")
    assert shown(grid)[2][0] == "11/12"
    grid.no_trouble()
    grid.compute("retry", "table1", "--cluster", "debug")
    assert len(grid.computed()) == 13
    assert shown(grid)[2][0] == "12/12"


def test_run_takes_the_value_of_a_search(grid):
    grid.compute("run", "table1", "--row", "small", "--arm", "16", "--value", "2", "--seed", "1")
    assert grid.computed() == ["large.own.1"]
    message = grid.mistake("run", "table1", "--row", "small", "--arm", "8", "--value", "7")
    assert message == "unknown value 7; known: 0.5, 1, 2"


def test_set_changes_the_runs_of_a_search(grid):
    plan = grid.cli("plan", "table1", "--set", "lr=0.5")
    signature = recipes.load("table1").table
    before = {cell.run.signature for cell in signature.cells(signature.scales[0])}
    assert "12 of 12 runs" in plan and not any(one in plan for one in before)


# --- figures and claims

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


def judge(project, test):
    claim = Claim(statement="It holds", source="Table 1", test=test)
    results = collect(project.root, Site(file=project.root / "site.toml"))
    ((judged,),) = judge_claims([claim], results)
    return judged.verdict


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


# --- what is refused


def trial(value):
    return Trial(
        values={"alpha0": value}, run=Run(task="tiny:train", config=Config(norm=str(value)))
    )


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ((trial(1.0),), "tries 1 values; expected two at least"),
        ((trial(0.5), trial(1.0), trial(0.5)), "tries 0.5 twice; name each value once"),
        (
            (trial(0.5), Trial(values={}, run=trial(1.0).run)),
            "has values of nothing; expected alpha0",
        ),
        ((trial(0.5), trial(float("nan"))), "tries nan; expected finite numbers"),
    ],
)
def test_search_refuses_trials(trials, message):
    with pytest.raises(ValueError, match=message):
        Search(metric="loss", trials=trials)


def test_search_refuses_an_original_that_is_not_tried():
    with pytest.raises(ValueError, match="original value 2 of a search is not tried"):
        Search(metric="loss", trials=(trial(0.5), trial(1.0)), original={"alpha0": 2})


def test_search_refuses_two_values_with_one_run(grid):
    grid.recipe(GRID.replace("norm=norm", "norm='LN'"))
    message = grid.mistake("plan", "table1")
    assert "row small, arm 8: the values 0.5 and 1 of the search give the same run" in message


def test_search_refuses_a_metric_that_the_scale_lacks(grid):
    grid.recipe(GRID.replace('metric="loss"', 'metric="alpha0"'))
    message = grid.mistake("plan", "table1")
    assert "the search chooses by 'alpha0'" in message and "one of loss" in message


def test_scale_refuses_labels_of_unknown_rows(grid):
    grid.recipe(GRID.replace('"small": "32"', '"tiny": "32"'))
    assert "unknown row or arm of table1 in the labels of a scale" in grid.mistake("plan", "table1")
