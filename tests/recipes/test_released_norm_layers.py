"""Analyses of released networks: each has the network whose weights it imports."""

from pathlib import Path

from matched import recipes

FILE = Path(__file__).parents[2] / "recipes/released_norm_layers.py"


def test_released_weights_are_of_the_analyzed_networks():
    table = recipes.load(str(FILE)).table
    (scale,) = table.scales
    runs = {cell.row: cell.run for cell in table.cells(scale)}
    assert set(runs) == {"vit_b", "wav2vec2_large", "dit_xl2"}
    for row, run in runs.items():
        weights = run.needs["trained"].config
        for field in ("model", "model_args", "network"):
            assert getattr(weights, field, None) == getattr(run.config, field, None)
        assert run.config.norm.layer == "own", row
    assert not runs["wav2vec2_large"].config.network.layer_norm_first
