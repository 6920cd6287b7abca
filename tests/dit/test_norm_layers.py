"""Analysis of the norm layers of a trained diffusion transformer."""

from dataclasses import replace

import numpy as np
import pytest

from dyt_dit import latents, norm_layers, training

from .tiny import DYT, ENCODING, OWN, TRAINING, run


@pytest.mark.parametrize(("arm", "norm"), [("LN", OWN), ("DyT", DYT)])
def test_analyze_records_every_norm_layer(tmp_path, arm, norm):
    config = replace(TRAINING, norm=norm, epochs=1)
    needs = {"latents": tmp_path / "latents"}
    run(latents.encode, needs["latents"], ENCODING)
    needs["trained"] = tmp_path / "trained"
    run(training.train, needs["trained"], config, needs=needs)
    outcome = run(norm_layers.analyze, tmp_path / "analysis", config, needs=needs)
    arrays = np.load(tmp_path / "analysis" / norm_layers.ARRAYS)
    assert len(arrays["path"]) == 2 * config.network.depth + 1
    assert arrays["x0"].shape == (64, config.network.width)
    assert np.isnan(arrays["alpha"]).all() == (arm == "LN")
    assert 0 < outcome.metrics["linear_share"] <= 100
