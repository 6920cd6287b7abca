"""Benefit of pretraining: better accuracy on few labels than from the initial weights."""

import importlib.util
from pathlib import Path

import pytest

from matched import projects, recipes

ROOT = Path(__file__).parents[2]
TASK = "human_enhancers_cohn"
"""Classes with the same two words in another order, which few labels do not teach."""


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setenv("MATCHED_ROOT", str(ROOT))
    for cached in (projects.root, recipes.paper_numbers, recipes.available):
        cached.cache_clear()  # they may hold another test's project
    file = ROOT / "benchmarks" / "dna_pretraining.py"
    monkeypatch.syspath_prepend(file.parent)  # it imports its neighbor
    spec = importlib.util.spec_from_file_location("dna_pretraining", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["LN", "DyT"])
def test_pretraining_improves_hyenadna_on_few_labels(benchmark, tmp_path, arm):
    """Table 6's runs at smoke scale."""
    recipe = recipes.load("table6")
    cells = recipe.table.cells(recipe.scale("smoke"))
    run = next(cell.run for cell in cells if (cell.row, cell.arm) == ("hyenadna", arm))
    accuracy = benchmark.accuracies(run, tmp_path, [TASK])[TASK]
    # Measured: LN 81.7 and 69.4 from scratch, DyT 98.5 and 56.0.
    assert accuracy["pretrained"] > 75
    assert accuracy["pretrained"] > accuracy["from scratch"] + 8
