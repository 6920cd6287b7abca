"""Summary table: aggregation over seeds, the paper's numbers, and notes."""

import pytest

from matched import table_formats
from matched.files import write_json
from matched.status import Failure
from matched.summary_table import summary_table

TWO_METRICS = """
[first]
venue = "Venue 2025"
prefix = ""
[first.table1]
caption = "Two metrics"
metrics = [
    { key = "top1", label = "top-1", unit = "%", direction = "higher" },
    { key = "fid", label = "FID", unit = "", direction = "lower" },
]
[first.table1.rows.small]
label = "Small"
LN = { top1 = 82.3, fid = 4.5 }
DyT = { top1 = 82.5, fid = 4.4 }
"""


def rows(project):
    """Return the rows of the table, each as column name → text."""
    table = summary_table(project.plan())
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def row(project, index=0):
    return rows(project)[index]


def records(project):
    return summary_table(project.plan()).records


def notes(project):
    return summary_table(project.plan()).notes


# --- numbers


def test_summary_table_has_means_deltas_and_paper_numbers(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    assert row(project) == {
        "top-1 %": "Small_1",
        "LN": "80.5 ± 0.7",
        "DyT": "83.0 ± 1.4",
        "Δ": "+2.5",
        "paper LN": "82.3",
        "paper DyT": "82.5",
        "paper Δ": "+0.2",
        "runs": "4/4",
        "matched": "yes",
    }


def test_summary_table_before_any_run(project):
    assert list(row(project).values()) == [
        "Small_1", "—", "—", "—", "82.3", "82.5", "+0.2", "0/4", "—",
    ]  # fmt: skip


def test_numbers_are_means_and_deviations_over_three_seeds(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0, 1, 2), small=SMALL),))")
    project.finish_seeds("small", ln=(80.0, 81.0, 85.0), dyt=(80.0, 80.0, 83.0))
    shown = row(project)
    assert (shown["LN"], shown["DyT"], shown["Δ"]) == ("82.0 ± 2.6", "81.0 ± 1.7", "-1.0")


def test_one_seed_has_no_standard_deviation(project):
    project.finish_seeds("small", ln=(80.04,), dyt=(79.0,))
    assert (row(project)["LN"], row(project)["Δ"]) == ("80.0", "-1.0")
    assert row(project)["runs"] == "2/4"


@pytest.mark.parametrize(
    ("ln", "dyt", "delta"),
    [(80.0, 80.04, "0.0"), (80.04, 80.0, "0.0"), (80.0, 80.0, "0.0"), (80.0, 80.06, "+0.1")],
)
def test_delta_of_zero_has_no_sign(project, ln, dyt, delta):
    project.finish_seeds("small", ln=(ln,), dyt=(dyt,))
    assert row(project)["Δ"] == delta


def test_a_finished_run_without_the_metric_has_no_number(project):
    project.finish("small.LN.0", loss=0.3)
    assert (row(project)["LN"], row(project)["runs"]) == ("—", "1/4")


@pytest.mark.parametrize(
    ("state", "word"), [("failed", "failed"), ("damaged", "damaged"), ("new", "—")]
)
def test_a_cell_without_a_number_shows_its_state(one_row, state, word):
    directory = one_row.directory("small.LN.0")
    directory.prepare()
    if state == "failed":
        directory.write_failure(Failure(reason="out of memory"))
    elif state == "damaged":
        (directory / "result.json").write_text("{", encoding="utf-8")
    assert row(one_row)["LN"] == word
    assert any("out of memory" in note for note in notes(one_row)) == (state == "failed")


@pytest.mark.parametrize(
    ("states", "word"),
    [
        (("failed", "damaged"), "damaged"),
        (("queued", "failed"), "failed"),
        (("new", "failed"), "failed"),
        (("queued", "running"), "running"),
        (("new", "queued"), "queued"),
    ],
    ids=str,
)
def test_a_cell_shows_the_state_to_look_at_first(project, states, word):
    project.program("squeue", 'echo "41_N/A|41|RUNNING|None"')
    for seed, state in enumerate(states):
        name = f"small.LN.{seed}"
        directory = project.directory(name)
        if state == "failed":
            directory.prepare()
            directory.write_failure(Failure(reason="why"))
        if state == "damaged":
            (project.finish(name) / "result.json").write_text("{", encoding="utf-8")
        if state in ("queued", "running"):
            {"queued": project.given, "running": project.begun}[state](name)
    assert [project.states()[f"small.LN.{seed}"] for seed in (0, 1)] == list(states)
    assert row(project)["LN"] == word


# --- divergence


def test_a_diverged_cell_shows_its_best_number(one_row):
    one_row.finish("small.LN.0", outcome="diverged", top1=58.5)
    one_row.finish("small.DyT.0", top1=80.0)
    assert (row(one_row)["LN"], row(one_row)["Δ"]) == ("58.5 → diverged", "+21.5")
    assert row(one_row)["runs"] == "2/2", "a divergence is a result"


def test_a_diverged_cell_without_a_number(one_row):
    one_row.finish("small.LN.0", outcome="diverged")
    assert (row(one_row)["LN"], row(one_row)["Δ"]) == ("diverged", "—")


def test_diverged_seeds_are_counted_but_not_averaged(project):
    project.finish("small.LN.0", outcome="diverged", top1=60.0)
    project.finish("small.LN.1", top1=80.0)
    # The best value before a divergence is not a final value and is left out of the mean.
    assert row(project)["LN"] == "80.0 (1 diverged)"


def test_open_cell_does_not_show_the_best_of_a_diverged_seed(project):
    project.finish("small.LN.0", outcome="diverged", top1=60.0)
    project.finish_seeds("small", dyt=(80.0, 81.0))
    assert (row(project)["LN"], row(project)["Δ"]) == ("diverged", "—")
    assert row(project)["runs"] == "3/4"


def test_divergences_printed_in_the_paper(project):
    large = row(project, 1)
    assert (large["paper LN"], large["paper DyT"]) == ("58.5 → diverged", "diverged")
    assert large["paper Δ"] == "—"


# --- several metrics, several arms, lower is better


def test_each_metric_has_a_row(project):
    project.write("recipes/paper.toml", TWO_METRICS)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    project.finish("small.LN.0", top1=80.0, fid=5.25)
    project.finish("small.DyT.0", top1=81.0, fid=4.5)
    shown = rows(project)
    assert [(r["model"], r["metric"], r["LN"], r["Δ"]) for r in shown] == [
        ("Small", "top-1 %", "80.0", "+1.0"),
        ("Small", "FID", "5.25", "-0.75"),
    ]
    assert [r["paper Δ"] for r in shown] == ["+0.2", "-0.10"]


def test_delta_is_arm_minus_baseline_in_either_direction(project):
    project.write("recipes/paper.toml", TWO_METRICS)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    project.finish("small.LN.0", fid=64.9)
    project.finish("small.DyT.0", fid=63.9)
    dyt = {record["metric"]: record for record in records(project) if record["arm"] == "DyT"}
    assert dyt["fid"]["direction"] == "lower"
    assert float(dyt["fid"]["delta"]) == -1.0
    assert float(dyt["fid"]["paper_delta"]) == -0.1


def test_deviations_have_the_decimals_of_the_mean(project):
    project.write("recipes/paper.toml", TWO_METRICS)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))")
    project.finish_seeds("small", ln=(12.0, 13.0), dyt=(0.25, 0.35), metric="fid")
    assert (row(project, 1)["LN"], row(project, 1)["DyT"]) == ("12.5 ± 0.7", "0.300 ± 0.071")


def test_small_numbers_have_three_decimals(project):
    project.write("recipes/paper.toml", TWO_METRICS)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    project.finish("small.LN.0", fid=0.6234)
    project.finish("small.DyT.0", fid=0.6257)
    assert (row(project, 1)["LN"], row(project, 1)["Δ"]) == ("0.623", "+0.002")


def test_with_three_arms_each_arm_has_a_row(project):
    project.recipe(
        "TABLE = Table(arms=(*ARMS, Arm(name='RMS', norm='RMS')),"
        " scales=(scale(seeds=(0,), small=SMALL),))"
    )
    project.finish_seeds("small", ln=(80.0,), dyt=(81.0,))
    project.finish("small.RMS.0", top1=79.0)
    table = summary_table(project.plan())
    assert table.header == (
        "top-1 %", "arm", "ours", "Δ", "paper", "paper Δ", "runs", "matched"
    )  # fmt: skip
    assert table.rows == (
        ("Small_1", "LN", "80.0", "", "82.3", "", "1/1", ""),
        ("", "DyT", "81.0", "+1.0", "82.5", "+0.2", "1/1", "yes"),
        ("", "RMS", "79.0", "-1.0", "—", "—", "1/1", "yes"),
    )
    assert "| :--- | :--- | ---: |" in table_formats.to_markdown(table)
    assert r"\begin{tabular}{llrrrrrr}" in table_formats.to_latex(table)


def test_scale_metrics_replace_the_papers(project):
    project.recipe(
        "OTHER = Metric(key='loss', label='loss', direction='lower')\n"
        "TABLE = Table(arms=ARMS, scales=("
        "replace(scale(seeds=(0,), small=SMALL), metrics=(OTHER,)),))"
    )
    project.finish_seeds("small", ln=(0.5,), metric="loss")
    assert (row(project)["loss"], row(project)["LN"]) == ("Small_1", "0.500")
    assert row(project)["paper LN"] == "—", "the paper's number is of another metric"


# --- matched pairs


def test_row_is_not_matched_while_a_pair_is_unknown(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, None))
    assert list(row(project).values())[-2:] == ["3/4", "—"]
    project.finish("small.DyT.1", prints=False, top1=84.0)
    assert list(row(project).values())[-2:] == ["4/4", "—"]
    assert row(project)["Δ"] == "+2.0", "of the seed whose pair is matched"


def test_row_with_an_unmatched_pair_has_no_delta(project):
    """Not even that of its other seed, whose pair is matched."""
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    other = {"weights": "x" * 16, "batches": ["b" * 16]}
    write_json(project.directory("small.DyT.1") / "fingerprint.json", other)
    assert (row(project)["Δ"], row(project)["matched"]) == ("—", "no")
    assert [record["delta"] for record in records(project)[:2]] == [None, None]


# --- notes


def test_notes_name_scale_data_and_seeds(project):
    assert notes(project)[0] == "Scale: smoke. Data: none. Seeds: 2 per cell."
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=("
        "scale(small=Run(task='tiny:train', config=Config(data=('digits',)))),))"
    )
    assert "Data: scikit-learn digits" in notes(project)[0]


def test_notes_name_what_was_in_the_data(project):
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    for name in ("small.LN.0", "small.DyT.1"):
        directory = project.directory(name)
        directory.write_result({**directory.result(), "details": {"data": "pile, 7 tokens"}})
    assert notes(project)[0] == "Scale: smoke. Data: none (pile, 7 tokens). Seeds: 2 per cell."


def test_notes_of_small_scales_deny_a_reproduction(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(small=SMALL), scale('paper', small=LARGE),"
        " scale('mini', small=Run(task='tiny:train', config=Config(epochs=2)))))"
    )
    for name in ("smoke", "mini"):
        warning = f"Not a reproduction of the paper: {name} scale uses other models and other data."
        assert warning in summary_table(project.plan(scale=name)).notes
    table = summary_table(project.plan(scale="paper"))
    assert not any("reproduction" in note for note in table.notes)
    assert table.title == "Venue 2025, Table 1 · paper scale"


def test_notes_include_allowed_differences_and_the_scales_note(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, allowed_differences={'lr': 'it is tuned'},"
        " scales=(replace(scale(small=SMALL), note='Toys.'),))"
    )
    assert "Toys." in notes(project)
    assert "Allowed to differ: lr, because it is tuned" in notes(project)


def test_results_of_one_scale_never_appear_at_another(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),"
        " scale('mini', seeds=(0,), small=Run(task='tiny:train', config=Config(epochs=2)))))"
    )
    project.finish_seeds("small", ln=(80.0,), dyt=(81.0,))
    project.cli("table", "table1")
    project.cli("table", "table1", "--scale", "mini")
    texts = {
        name: (project.root / f"results/table1.{name}.md").read_text(encoding="utf-8")
        for name in ("smoke", "mini")
    }
    assert "80.0" in texts["smoke"] and "80.0" not in texts["mini"]
    assert "smoke" not in texts["mini"]
