"""Searches of the papers: their grids at paper scale, and the runs that tables share."""

import pytest

from matched import recipes


def runs(name, scale, row=None):
    recipe = recipes.load(name)
    cells = recipe.table.cells(recipe.scale(scale))
    return {cell.run for cell in cells if row in (None, cell.row)}


def test_iclr_searches_try_six_alpha0_for_10000_steps():
    for name, cells, distinct in (("iclr-table7", 150, 150), ("iclr-table10", 288, 240)):
        recipe = recipes.load(name)
        found = recipe.table.cells(recipe.scale("paper"))
        assert (len(found), len({cell.run for cell in found})) == (cells, distinct)
        assert {cell.value for cell in found} == {"2", "1", "0.5", "0.2", "0.1", "0.05"}
        assert {cell.run.config.steps for cell in found} == {10_000}
        assert {cell.run.config.batch * cell.run.config.length for cell in found} == {1 << 20}


def test_cvpr_searches_stop_table4_at_30_billion_tokens():
    table4 = recipes.load("table4").table
    cells = [cell for cell in table4.cells(table4.scales[-1]) if cell.row == "llama_7b"]
    (steps,) = {cell.run.needs["pretrained"].config.steps for cell in cells}
    for run in runs("table11", "paper") | runs("table12", "paper"):
        config = run.config
        assert abs(config.steps * config.batch * config.length - 30e9) < 4e6
        assert config.schedule_steps == steps and config.embedding_scale


@pytest.mark.parametrize(
    ("scale", "first", "second", "shared"),
    [
        ("paper", "table11", "table12", 16),  # LLaMA 7B is width 4096 with depth 32
        ("paper", "iclr-table7", "iclr-table10", 24),  # 8 layers at four widths
        ("smoke", "iclr-table7", "iclr-table10", 24),
        ("smoke", "iclr-table7", "table12", 18),  # one α0 for all layers
        ("smoke", "table11", "table12", 4),
    ],
)
def test_searches_share_runs_with_other_tables(scale, first, second, shared):
    assert len(runs(first, scale) & runs(second, scale)) == shared
