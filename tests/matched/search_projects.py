"""Projects of the tests of searches: a grid of α0, and a table with a tuned learning rate."""

from __future__ import annotations

import pytest

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


def finish_tuned(project, rates):
    project.cli("plan", "table2")
    plan = project.plan("table2")
    for planned in plan.runs:
        directory = planned.directory
        directory.prepare()
        value = 90.0 if planned.run.config.norm == "LN" else rates[planned.run.config.lr]
        (directory / "fingerprint.json").write_text('{"weights": "w", "batches": ["b"]}')
        directory.write_result({"outcome": "done", "metrics": {"top1": value}, "steps": 1})


CLEAR = {"DyT": (3.0, 3.1), "LN": (2.0, 2.1), "own": (2.5, 2.6)}
"""Norm → loss of each seed: the value 1 is clearly the best."""
