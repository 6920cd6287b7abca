"""Entries of a summary table: numbers, differences, marks and hardware of every cell."""

from dataclasses import fields

import pytest

from matched.audit import audit_pairs
from matched.entries import _printed_delta, make_entries, shown_arms
from matched.files import write_json
from matched.status import State
from matched.table import Metric

from .search_projects import CLEAR, finish_trials, finish_tuned
from .test_summary_table import TWO_METRICS

THREE_ARMS = (
    "METRICS = (Metric(key='top1', label='top-1', unit='%', direction='higher'),"
    " Metric(key='fid', label='FID', direction='lower'))\n"
    "ALL = (*ARMS, Arm(name='own', norm='own'), Arm(name='absent', norm='none'))\n"
    "ROW = {'LN': SMALL, 'DyT': SMALL, 'own': SMALL}\n"
    "TABLE = Table(arms=ALL, scales=(replace(scale(small=ROW), metrics=METRICS),))"
)
A100, H100 = "NVIDIA A100", "NVIDIA H100"


def shown(entry):
    """Return the fields of an entry as text and numbers."""
    record = {field.name: getattr(entry, field.name) for field in fields(entry)}
    del record["runs"], record["search"]
    record["metric"] = entry.metric.key
    record["ours"] = dict(entry.ours.values)
    return record


@pytest.fixture
def three(project):
    """A table with two metrics, two seeds and three arms; seed 1 of the third is not matched."""
    project.write("recipes/paper.toml", TWO_METRICS)
    project.recipe(THREE_ARMS)
    for norm, top1 in (("LN", 80.0), ("DyT", 81.5), ("own", 79.0)):
        for seed in (0, 1):
            hardware = H100 if (norm, seed) == ("DyT", 1) else A100
            name = f"small.{norm}.{seed}"
            project.finish(name, hardware=hardware, top1=top1 + seed, fid=top1 / 10)
    path = project.directory("small.own.1") / "fingerprint.json"
    write_json(path, {"weights": "x" * 16, "batches": ["b" * 16]})
    return project


def test_entries_of_a_table_are_by_metric_and_arm(three):
    plan = three.plan()
    assert shown_arms(plan) == ["LN", "DyT", "own"]
    top1, fid = make_entries(plan, audit_pairs(plan))
    printed = {"LN": {"top1": 82.3, "fid": 4.5}, "DyT": {"top1": 82.5, "fid": 4.4}, "own": {}}
    common = {"row": "small", "metric": "top1", "base_mean": 80.5}
    assert [shown(entry) for entry in top1] == [
        {
            **common,
            "arm": "LN",
            "ours": {0: 80.0, 1: 81.0},
            "base_mean": None,
            "delta": None,
            "printed": printed["LN"],
            "printed_delta": None,
            "matched": "",
            "matched_seeds": set(),
            "hardware": {0: A100, 1: A100},
        },
        {
            **common,
            "arm": "DyT",
            "ours": {0: 81.5, 1: 82.5},
            "delta": 1.5,  # of seed 0; the pair of seed 1 was computed on different hardware
            "printed": printed["DyT"],
            "printed_delta": 0.2,
            "matched": "yes",
            "matched_seeds": {0},
            "hardware": {0: A100, 1: H100},
        },
        {
            **common,
            "arm": "own",
            "ours": {0: 79.0, 1: 80.0},
            "delta": None,
            "printed": {},
            "printed_delta": None,
            "matched": "no",
            "matched_seeds": set(),
            "hardware": {0: A100, 1: A100},
        },
    ]
    assert [
        (entry.metric.key, entry.ours.mean, entry.delta, entry.printed_delta) for entry in fid
    ] == [
        ("fid", 8.0, None, None),
        ("fid", 8.15, 0.15, -0.1),
        ("fid", 7.9, None, None),
    ]
    assert [planned.status.state for _, planned in fid[1].runs] == [State.DONE] * 2


def test_hardware_of_a_cell_names_that_of_its_needs(project):
    project.recipe(
        "START = Run(task='tiny:train', config=Config(model='start'))\n"
        "TOP = replace(SMALL, needs={'start': START})\n"
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=TOP),))"
    )
    project.finish("start.LN.0", hardware=H100, top1=1.0)
    project.finish("small.LN.0", hardware=A100, top1=1.0)
    ((entry,),) = make_entries(project.plan(), [])
    assert entry.hardware == {0: f"{A100}, {H100}"}


@pytest.mark.parametrize(
    ("base", "printed", "delta"),
    [
        ({"fid": 4.5}, {"fid": 4.4}, -0.1),
        ({"fid": 4.5}, {}, None),
        ({}, {"fid": 4.4}, None),
        ({"top1": 1.0}, {"top1": 2.0}, None),
    ],
)
def test_printed_delta_needs_both_numbers(base, printed, delta):
    metric = Metric(key="fid", label="FID", direction="lower")
    assert _printed_delta(base, printed, metric) == delta


def test_entries_of_searches_are_matched_without_a_baseline(grid):
    finish_trials(grid, "small", CLEAR)
    finish_trials(grid, "large", CLEAR)
    plan = grid.plan()
    lists = make_entries(plan, audit_pairs(plan))
    assert [[(e.arm, e.metric.key, e.ours.mean) for e in entries] for entries in lists] == [
        [("8", "alpha0", 1), ("16", "alpha0", 1)],
        [("8", "loss", 2.05), ("16", "loss", 2.05)],
    ]
    for entry in (entry for entries in lists for entry in entries):
        assert (entry.base_mean, entry.delta, entry.printed_delta) == (None, None, None)
        assert (entry.matched, entry.matched_seeds) == ("yes", {0, 1})
        assert entry.search.best.trial.label == "1"


def test_hardware_of_a_search_is_that_of_its_finished_runs(grid):
    grid.finish("small.LN.0", hardware=H100, loss=1.0)
    grid.finish("small.own.0", hardware=A100, loss=1.0)
    (entry, _), _ = make_entries(grid.plan(), [])
    assert entry.hardware == {0: f"{A100}, {H100}", 1: ""}


def test_entry_of_a_search_has_the_numbers_of_its_best(tuned):
    finish_tuned(tuned, {0.05: 88.0, 0.1: 89.0, 0.2: 91.5})
    plan = tuned.plan("table2")
    ((ln, dyt),) = make_entries(plan, audit_pairs(plan))
    assert (ln.matched, ln.search, dyt.search.best.trial.label) == ("", None, "0.2")
    assert (dyt.base_mean, dyt.ours.mean, dyt.delta) == (90.0, 91.5, 1.5)
    assert (dyt.matched, dyt.matched_seeds) == ("yes", {0})
