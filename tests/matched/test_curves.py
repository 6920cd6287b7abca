"""Training curves of a table: which runs are drawn, in which panels, and how many are left out."""

import json
import math

import pytest

from matched.report import curves
from matched.report.curves import Curve, FinalAlphas, Panel

MANY_SEEDS = (
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(9, 8, 7, 6, 5, 4), small=SMALL, large=LARGE),))"
)
NEEDS = """
def needing(name, **needs):
    return Run(task="tiny:train", config=Config(model=name), needs=needs)


A = needing("a")
CHAIN = needing("small", d=needing("d", a=A, c=needing("c", b=needing("b"))), a=A)
TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=CHAIN, large=LARGE),))
"""


def log(directory, *lines):
    directory.prepare()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_curves_of_the_first_five_seeds_are_drawn(project):
    project.recipe(MANY_SEEDS)
    for planned in project.plan().runs:
        if planned.run.config.model == "small":
            log(planned.directory, {"step": 1, "loss": planned.run.config.seed})
    found = curves.read_curves(project.plan())
    expected = tuple(
        Curve(arm=arm, seed=seed, steps=(1,), losses=(float(seed),))
        for seed in (9, 8, 7, 6, 5)
        for arm in ("LN", "DyT")
    )
    assert found.panels == [Panel(row="small", need="", curves=expected)]
    assert (found.alphas, found.damaged, found.hidden) == ([], [], {})


def test_panels_are_the_rows_own_run_and_then_its_needs(project):
    """The need "a" is reached on two paths; the fifth training is not drawn."""
    project.recipe(NEEDS)
    for number, planned in enumerate(project.plan().runs):
        log(planned.directory, {"step": 1, "loss": number, "alpha": {"norm": number / 10}})
    found = curves.read_curves(project.plan())
    assert [(panel.row, panel.need) for panel in found.panels] == [
        ("small", ""),
        ("small", "a"),
        ("small", "d"),
        ("small", "d/c"),
        ("large", ""),
    ]
    assert found.hidden == {"small": 1}
    losses = [panel.curves[0].losses for panel in found.panels]
    # Runs are planned in the order a, b, c, d, small, large.
    assert losses == [(4.0,), (0.0,), (3.0,), (2.0,), (5.0,)]
    assert found.alphas == [
        FinalAlphas(row="small", arm="LN", seed=0, alphas={"norm": 0.4}),
        FinalAlphas(row="large", arm="LN", seed=0, alphas={"norm": 0.5}),
    ]


def test_alphas_of_every_seed_are_kept(project):
    project.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0, 1), small=SMALL),))")
    for planned in project.plan().runs:
        log(planned.directory, {"step": 1, "loss": 1.0, "alpha": {"norm": planned.run.config.seed}})
    assert curves.read_curves(project.plan()).alphas == [
        FinalAlphas(row="small", arm="LN", seed=seed, alphas={"norm": seed}) for seed in (0, 1)
    ]


def test_alpha_of_a_need_is_drawn_without_the_rows_own(project):
    project.recipe(NEEDS)
    a, b, c, _, small, _ = (planned.directory for planned in project.plan().runs)
    log(small, {"step": 1, "loss": 1.0})
    log(a, {"step": 1, "evaluation": {}})
    log(b, {"step": 3, "loss": None, "alpha": {"norm": None}})
    log(c, {"step": 2, "alpha": {"norm": 0.5}})
    found = curves.read_curves(project.plan())
    assert [(panel.need, panel.curves[0].steps) for panel in found.panels] == [
        ("", (1,)),
        ("d/c/b", (3,)),
    ], "needs without a loss have no panel"
    (alphas,) = found.alphas
    assert alphas.alphas == {"norm": 0.5} and found.hidden == {}
    assert math.isnan(found.panels[1].curves[0].losses[0])


def test_trials_of_a_search_have_no_curves(grid):
    for planned in grid.plan().runs:
        log(planned.directory, {"step": 1, "loss": 1.0})
    assert curves.read_curves(grid.plan()).panels == []


@pytest.mark.parametrize(
    "line",
    [{"step": 1.5}, {"step": 2, "loss": "x"}, {"step": 2, "loss": True}, {"step": 2, "alpha": [1]}],
)
def test_curve_with_values_that_are_not_numbers_is_left_out(one_row, line):
    directory = one_row.directory("small.LN.0")
    log(directory, {"step": 1, "loss": 1.0}, line)
    found = curves.read_curves(one_row.plan())
    assert found.panels == []
    assert found.damaged == [
        f"{directory.path}/metrics.jsonl: step {line['step']!r} has values that are not numbers"
    ]
