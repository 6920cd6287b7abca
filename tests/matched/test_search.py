"""Searches: the best value of a cell, all values tried, ties, divergence, and what is refused."""

import csv
import io
from dataclasses import dataclass

import pytest

from matched import Run, Search, Trial, recipes
from matched.audit import audit_pairs
from matched.search import TRIED_COLUMNS, label_of_text
from matched.summary_table import summary_table

from .search_projects import CLEAR, GRID, PAPER, finish_trials, finish_tuned


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    norm: str


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


def test_search_grid_may_leave_cells_out(grid):
    paper = PAPER.replace(
        "[first.table2]", '[first.table1.rows.wide]\nlabel = "2048"\n[first.table2]', 1
    )
    grid.write("recipes/paper.toml", paper)
    grid.recipe(GRID.replace("64)}),", '64)}, wide={"16": search("large", 64)}),'))
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", CLEAR)
    assert summary_table(grid.plan()).rows[2:] == (
        ("2048", "ours", "—", "1", "6/6", "yes"),
        ("2048", "paper", "—", "—", "", ""),
    )


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
    assert set(lines[0]) == {*TRIED_COLUMNS, "alpha0"}
    markdown = (grid.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    assert "#### Values tried" in markdown and "1: 2.05 ± 0.071 best" in markdown


def test_search_is_one_record_of_the_table(grid):
    finish_trials(grid, "small", CLEAR)
    alpha0, loss = summary_table(grid.plan()).records[:4:2]
    assert (alpha0["metric"], alpha0["mean"], alpha0["best"]) == ("alpha0", 1, "1")
    assert (loss["metric"], loss["mean"], loss["seeds_planned"]) == ("loss", 2.05, 6)
    assert len(alpha0["signatures"].split()) == 6


# --- a tuned arm beside the original


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


def test_plan_titles_of_needs_keep_the_slash_of_pairs(grid):
    """ "/" separates a run from its needs in paths, and two values of a search in labels."""
    need = "NEED = Run(task='tiny:train', config=Config(model='tokens'))\n"
    pairs = GRID.replace('values={"alpha0": a}', 'values={"alpha0": a, "beta0": a / 2}')
    grid.recipe(need + pairs.replace("epochs=width)", "epochs=width), needs={'tokens': NEED}"))
    assert "small · 8 · 0.5/0.25 · seed 0 · tokens" in grid.cli("plan", "table1")


def test_run_takes_the_value_of_a_search(grid):
    grid.compute("run", "table1", "--row", "small", "--arm", "16", "--value", "2.0", "--seed", "1")
    assert grid.computed() == ["large.own.1"]
    message = grid.mistake("run", "table1", "--row", "small", "--arm", "8", "--value", "7")
    assert message == "unknown value 7; known: 0.5, 1, 2"


@pytest.mark.parametrize(
    ("text", "label"),
    [("1.0/5e-1", "1/0.5"), ("01/.50", "1/0.5"), ("0.8/x", "0.8/x"), ("", ""), ("1 /2", "1/2")],
)
def test_label_of_text_has_one_spelling_per_value(text, label):
    assert label_of_text(text) == label


def test_cancel_takes_any_spelling_of_a_value(grid):
    assert "0 runs asked to stop" in grid.cli("cancel", "table1", "--value", "1.0")
    message = grid.mistake("cancel", "table1", "--arm", "8", "--value", "7.0")
    assert message == "unknown value 7.0; known: 0.5, 1, 2"


def test_set_changes_the_runs_of_a_search(grid):
    plan = grid.cli("plan", "table1", "--set", "lr=0.5")
    signature = recipes.load("table1").table
    before = {cell.run.signature for cell in signature.cells(signature.scales[0])}
    assert "12 of 12 runs" in plan and not any(one in plan for one in before)


# --- what is refused


def trial(value):
    return Trial(
        values={"alpha0": value}, run=Run(task="tiny:train", config=Config(norm=str(value)))
    )


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ((trial(1.0),), "a search tries 1 values; expected two at least"),
        (
            (trial(0.5), trial(1.0), trial(0.5), trial(1.0)),
            "a search tries 0.5, 1 twice; name each value once",
        ),
        (
            (trial(0.5), Trial(values={}, run=trial(1.0).run)),
            "a trial of a search has values of nothing; expected alpha0, as the first has",
        ),
        (
            (Trial(values={}, run=trial(1.0).run),) * 2,
            "a trial of a search has values of nothing; expected at least one, as the first has",
        ),
        ((trial(0.5), trial(float("nan"))), "a search tries alpha0 nan; expected finite numbers"),
        ((trial(0.5), trial("small")), "a search tries alpha0 'small'; expected finite numbers"),
        ((trial(0.5), trial(True)), "a search tries alpha0 True; expected finite numbers"),
    ],
)
def test_search_refuses_trials(trials, message):
    with pytest.raises(ValueError) as error:
        Search(metric="loss", trials=trials)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["minutes", "cpu_minutes"])
def test_search_refuses_minutes_below_one(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected a whole number of 1 or more"):
        Search(metric="loss", trials=(trial(0.5), trial(1.0)), **{name: 0})


def test_search_refuses_parameters_with_names_of_columns():
    trials = tuple(
        Trial(values={"row": value, "lr": value, "mean": value}, run=trial(value).run)
        for value in (0.5, 1.0)
    )
    with pytest.raises(ValueError) as error:
        Search(metric="loss", trials=trials)
    assert str(error.value) == (
        "a search tries values of row, mean, which is the name of a column of .tried.csv; choose "
        "another name"
    )


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (
            {"alpha0": 2},
            "the original value 2 of a search is not tried; add it to the trials, 0.5, 1",
        ),
        ({"alpha0": "small"}, "a search tries alpha0 'small'; expected finite numbers"),
        (
            {"lr": 0.5},
            "the original of a search has values of lr; expected alpha0, as the first has",
        ),
    ],
)
def test_search_refuses_an_original_that_is_not_tried(original, message):
    with pytest.raises(ValueError) as error:
        Search(metric="loss", trials=(trial(0.5), trial(1.0)), original=original)
    assert str(error.value) == message


def test_search_refuses_two_values_with_one_run(grid):
    grid.recipe(GRID.replace("norm=norm", "norm='LN'"))
    message = grid.mistake("plan", "table1")
    assert "row small, arm 8: the values 0.5 and 1 of the search give the same run" in message


def test_search_refuses_a_metric_that_the_scale_lacks(grid):
    grid.recipe(GRID.replace('metric="loss"', 'metric="alpha0"'))
    text = "the search chooses by 'alpha0'; expected a metric of the scale that is better higher or"
    message = f"row small, arm 8 at smoke scale: {text} lower, one of "
    assert grid.mistake("plan", "table1").endswith(f"/table01.py: {message}loss")
    grid.recipe(GRID.replace('metric="loss"', 'metric="alpha0"').replace('"lower"', '"none"'))
    assert grid.mistake("plan", "table1").endswith(f"/table01.py: {message}none")


def test_scale_refuses_labels_of_unknown_rows(grid):
    grid.recipe(GRID.replace('"small": "32"', '"tiny": "32"'))
    assert "unknown row or arm of table1 in the labels of a scale" in grid.mistake("plan", "table1")
