"""Lines below a table, word for word, and the records of its CSV."""

import pytest

from matched import planning, recipes, site
from matched.files import write_json
from matched.overrides import with_changes
from matched.status import Failure
from matched.summary_table import summary_table

SEEDS = "± is the standard deviation over seeds."
DELTA = (
    "Δ is {} minus LN, averaged over the seeds that both have. It is shown for matched pairs only: "
    "same config except for the norm, same initial weights outside the norm layers, same first "
    "batches."
)
TOYS = "Not a reproduction of the paper: smoke scale uses other models and other data."


def lines(project, *texts):
    """Return notes and warnings of the table with the changes of ``--set``."""
    recipe = recipes.load("table1")
    recipe, scale = with_changes(recipe, recipe.scale("smoke"), texts)
    settings = site.read(project.root / site.FILE)
    table = summary_table(planning.make_plan(recipe, scale, settings))
    assert table.notes[len(table.notes) - len(table.warnings) :] == table.warnings
    return list(table.notes[: len(table.notes) - len(table.warnings)]), list(table.warnings)


def finish(project, name, top1, **details):
    directory = project.finish(name, top1=top1)
    directory.write_result({**directory.result(), "details": details})
    return directory


def test_notes_of_a_plain_table(project):
    scale = "Scale: smoke. Data: none. Seeds: 2 per cell."
    assert lines(project) == ([scale, TOYS, SEEDS, DELTA.format("DyT")], [])


def test_notes_name_all_that_is_special(project):
    project.recipe(
        "NORMS = ArmNorms(norms={'DyT': 'narrow', 'Derf': 'own'},"
        " by_row={'large': {'DyT': 'wide', 'Derf': 'own'}}, reason='widths differ')\n"
        "THREE = (*ARMS, Arm(name='Derf', norm='own', allowed_differences={'lr': 'it is tuned'}))\n"
        "SCALE = replace(scale(seeds=(0,), small=SMALL, large=LARGE), note='Toys.',"
        " arm_norms=NORMS)\n"
        "TABLE = Table(arms=THREE, scales=(SCALE,), allowed_differences={'weights': 'they are'})"
    )
    notes, _ = lines(project, "lr=0.5", "clip_norm=1")
    assert notes == [
        "Scale: smoke. Data: none. Seeds: 1 per cell.",
        "Changed on the command line: clip_norm=1.0, lr=0.5.",
        TOYS,
        "Toys.",
        "Norms at this scale: narrow, own; wide, own for Large, because widths differ.",
        DELTA.format("each arm"),
        "Allowed to differ: weights, because they are",
        "Allowed to differ: lr (Derf), because it is tuned",
    ]


def test_notes_name_data_and_hardware_of_finished_runs_once(project):
    finish(project, "small.LN.0", 80.0, data="a folder", hardware="one H100")
    finish(project, "small.DyT.0", 80.0, data="a folder", hardware="one H100")
    notes, warnings = lines(project)
    scale = "Scale: smoke. Data: none (a folder). Seeds: 2 per cell."
    assert notes == [scale, TOYS, "Measured on one H100.", SEEDS, DELTA.format("DyT")]
    assert warnings == []
    finish(project, "small.LN.1", 80.0, data="another", hardware="one A100")
    notes, warnings = lines(project)
    assert notes[0] == "Scale: smoke. Data: none (a folder; another). Seeds: 2 per cell."
    assert notes[2] == "Measured on one H100; one A100."
    assert warnings == [
        "MIXED HARDWARE: the runs of this table were measured on 2 machines or versions; each run "
        "compares its arms on one of them, and ± includes their differences."
    ]


def test_warnings_name_pairs_tasks_and_runs_in_order(project):
    for name, hardware in (("LN.0", "a CPU"), ("DyT.0", "a GPU"), ("LN.1", ""), ("DyT.1", "")):
        directory = finish(project, f"small.{name}", 80.0)
        result = {**directory.result(), "hardware": hardware, "details": {"warnings": []}}
        directory.write_result(result)
    write_json(directory / "fingerprint.json", {"weights": "x", "batches": ["b" * 16]})
    directory.write_result({**result, "details": {"warnings": ["few images", "old data"]}})
    damaged = project.finish("large.LN.0", top1=1.0)
    (damaged / "result.json").write_text("{")
    failed = project.directory("large.DyT.1")
    failed.prepare()
    failed.write_failure(Failure(reason="no memory"))
    _, warnings = lines(project)
    assert warnings[:-2] == [
        "NOT MATCHED: small, DyT, seed 1: fingerprints differ in weights.",
        "Different hardware: small, DyT, seed 0: a CPU against a GPU; this pair is not part of Δ.",
        "Warning: small · DyT · seed 1: few images",
        "Warning: small · DyT · seed 1: old data",
    ]
    assert warnings[-2].startswith(
        f"Damaged: large · LN · seed 0: {damaged.path}/result.json is not "
    )
    assert warnings[-1] == "Failed: large · DyT · seed 1: no memory"


def test_record_of_an_entry_has_unrounded_numbers(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0, 1, 2), small=SMALL),))")
    project.finish_seeds("small", ln=(80.0, 81.0), dyt=(82.0, 84.0))
    project.finish("small.LN.2", outcome="diverged", top1=20.0)
    plan = project.plan()
    table = summary_table(plan)
    signatures = [
        " ".join(one.run.signature for one in plan.runs if one.run.config.norm == norm)
        for norm in ("LN", "DyT")
    ]
    common = {
        "table": "table1",
        "scale": "smoke",
        "data": "none",
        "row": "small",
        "model": "Small_1",
        "metric": "top1",
        "unit": "%",
        "direction": "higher",
        "seeds_with_value": 2,
        "seeds_planned": 3,
        "best": None,
        "changes": "",
    }
    assert table.records == (
        {
            **common,
            "arm": "LN",
            "mean": 80.5,
            "std": pytest.approx(0.7071, abs=1e-4),
            "seeds_diverged": 1,
            "delta": None,
            "paper": 82.3,
            "paper_delta": None,
            "matched": "",
            "states": "done done diverged",
            "signatures": signatures[0],
        },
        {
            **common,
            "arm": "DyT",
            "mean": 83.0,
            "std": pytest.approx(1.4142, abs=1e-4),
            "seeds_diverged": 0,
            "delta": 2.5,
            "paper": 82.5,
            "paper_delta": pytest.approx(0.2),
            "matched": "—",
            "states": "done done new",
            "signatures": signatures[1],
        },
    )
    assert (table.title, table.caption) == (
        "Venue 2025, Table 1 · smoke scale",
        "Two models & two norms",
    )


def test_table_of_one_arm_has_no_differences(project):
    project.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(small=SMALL),))")
    project.finish_seeds("small", ln=(80.0, 81.0))
    table = summary_table(project.plan())
    assert table.header == ("top-1 %", "LN", "paper LN", "runs")
    assert table.rows == (("Small_1", "80.5 ± 0.7", "82.3", "2/2"),)
