"""The tables in examples/ with the arm "DyT (calibrated)", which no paper's table has."""

import os
from pathlib import Path
from unittest import mock

import pytest

from dyt import Norm
from matched import projects, recipes

ROOT = Path(__file__).parents[2]
CALIBRATED = "DyT (calibrated)"
EXAMPLES = {
    "calibrated_dyt": ("table1", ["smoke"], ["LN", "DyT"]),
    "calibrated_dit": ("table3", ["smoke"], ["LN", "DyT"]),
    "calibrated_llama": ("table4", ["smoke"], ["RMSNorm", "DyT"]),
    "calibrated_dna": ("table6", ["smoke", "mini"], ["LN", "DyT"]),
}


def runs_of(run):
    """Yield a run and all that it needs."""
    for need in run.needs.values():
        yield from runs_of(need)
    yield run


@pytest.fixture
def load():
    with mock.patch.dict(os.environ, MATCHED_ROOT=str(ROOT)):
        for cached in (projects.root, recipes.paper_numbers, recipes.available):
            cached.cache_clear()
        yield recipes.load


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_tables_have_a_calibrated_arm(load, name):
    table, scales, arms = EXAMPLES[name]
    recipe, paper = load(str(ROOT / "examples" / f"{name}.py")), load(table)
    assert [scale.name for scale in recipe.table.scales] == scales
    assert [arm.name for arm in paper.table.arms] == arms
    for scale in scales:
        cells = {c.arm: c.run for c in recipe.table.cells(recipe.scale(scale))}
        assert list(cells) == [*arms, CALIBRATED]
        configs = [run.config for run in runs_of(cells[CALIBRATED])]
        norms = {config.norm for config in configs if hasattr(config, "norm")}
        assert norms == {Norm.dyt("calibrated")}
        expected = {c.arm: c.run for c in paper.table.cells(paper.scale(scale))}
        assert [cells[arm] for arm in arms] == [expected[arm] for arm in arms]
