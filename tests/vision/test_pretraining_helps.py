"""Benefit of pretraining: better fine-tuning accuracy than from the initial weights."""

import importlib.util
import statistics
from pathlib import Path

import pytest

from matched import recipes

FILE = Path(__file__).parents[2] / "benchmarks" / "pretraining.py"
SEEDS = range(2)


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("pretraining", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("row", ["mae_vit_b", "dino_b16"])
def test_pretraining_improves_fine_tuning_on_few_labels(benchmark, tmp_path, row):
    """Table 2's runs at smoke scale, with LN."""
    recipe = recipes.load("table2")
    cells = recipe.table.cells(recipe.scale("smoke"))
    cell = next(cell for cell in cells if (cell.row, cell.arm) == (row, "LN"))
    accuracies = benchmark.accuracies(cell.run, tmp_path, SEEDS)
    means = [statistics.fmean(accuracies[start]) for start in benchmark.STARTS]
    pretrained, before, scratch = means
    assert pretrained > before
    assert pretrained > scratch + 5
