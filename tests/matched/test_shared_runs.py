"""One run that computes several arms: metrics by arm, matched pairs, hardware of its times."""

import pytest

from matched.summary_table import summary_table

SHARED = """
NAMES = ("LN", "DyT")
TABLE = Table(
    arms=tuple(Arm(name=name) for name in NAMES),
    scales=(scale(small=dict.fromkeys(NAMES, SMALL)),),
)
"""


@pytest.fixture
def shared(project):
    project.recipe(SHARED)
    return project


def finish(project, seed, hardware="a card, torch 2", **metrics):
    directory = project.finish(f"small.LN.{seed}", prints=False)
    metrics = {name.replace("_", "/"): value for name, value in metrics.items()}
    result = {"outcome": "done", "metrics": metrics, "steps": 3}
    directory.write_result({**result, "details": {"hardware": hardware}})
    return directory


def row(project):
    table = summary_table(project.plan())
    return dict(zip(table.header, table.rows[0], strict=True))


def test_shared_run_is_planned_once_for_all_arms(shared):
    assert list(shared.states()) == ["small.LN.0", "small.LN.1"]
    assert row(shared)["matched"] == "—"


def test_shared_run_shows_each_arm_its_own_metric(shared):
    finish(shared, 0, LN_top1=80.0, DyT_top1=82.0)
    finish(shared, 1, LN_top1=81.0, DyT_top1=84.0)
    shown = row(shared)
    assert (shown["LN"], shown["DyT"], shown["Δ"]) == ("80.5 ± 0.7", "83.0 ± 1.4", "+2.5")
    assert shown["matched"] == "yes"  # without a fingerprint


def test_shared_run_without_the_metric_of_an_arm_shows_a_dash(shared):
    finish(shared, 0, LN_top1=80.0)
    shown = row(shared)
    assert (shown["LN"], shown["DyT"], shown["Δ"]) == ("80.0", "—", "—")


def test_status_leaves_out_metrics_of_arms(shared):
    finish(shared, 0, LN_top1=80.0, top5=95.0)
    printed = shared.cli("status", "table1")
    assert "top5 95" in printed and "top1" not in printed


def test_table_names_the_hardware_of_times(shared):
    finish(shared, 0, LN_top1=80.0)
    finish(shared, 1, LN_top1=81.0)
    table = summary_table(shared.plan())
    assert "Measured on a card, torch 2." in table.notes and not table.warnings


def test_table_warns_of_mixed_hardware(shared):
    finish(shared, 0, LN_top1=80.0)
    finish(shared, 1, "another card", LN_top1=81.0)
    table = summary_table(shared.plan())
    assert "Measured on a card, torch 2; another card." in table.notes
    assert table.warnings[0].startswith("MIXED HARDWARE: the runs of this table were measured on 2")


def test_report_names_metrics_of_arms_that_are_no_numbers(shared):
    finish(shared, 0, LN_top1=float("nan"), DyT_top1=1.0)
    finish(shared, 1, LN_top1=80.0, DyT_top1=1.0)
    shared.cli("report")
    html = (shared.root / "results/report/index.html").read_text(encoding="utf-8")
    assert html.count("Not a number: top1 of small · LN · seed 0 is nan") == 1
