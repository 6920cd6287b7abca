"""The figures of the papers: all numbers are there, and their sources exist at every scale."""

from pathlib import Path

import pytest

from matched import recipes
from matched.report import figure_list

ROOT = Path(__file__).parents[2]
FIGURES = figure_list.available(ROOT)


def test_figures_of_both_papers_are_complete():
    cvpr = {f"fig{n}" for n in (*range(1, 10), 11)}
    assert set(FIGURES) == cvpr | {f"iclr-fig{n}" for n in range(1, 6)}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_sources_exist(name):
    tables = {}
    for source in FIGURES[name].sources:
        path = str(ROOT / source.recipe) if source.recipe.endswith(".py") else source.recipe
        table = tables.get(path) or tables.setdefault(path, recipes.load(path).table)
        assert {scale.name for scale in table.scales} >= {"smoke", "paper"}
        for scale in table.scales:
            cells = {(cell.row, cell.arm) for cell in table.cells(scale)}
            assert {(source.row, arm) for arm in source.arms} <= cells
            assert source.row in {row for row, _ in cells}
