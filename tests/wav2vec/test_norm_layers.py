"""Analysis of the norm layers of a pretrained wav2vec 2.0."""

from dataclasses import replace

import numpy as np
import pytest

from dyt_wav2vec import norm_layers
from dyt_wav2vec.pretraining import pretrain

from .problem import CONFIG, SIGNATURE, context


def test_analyze_records_every_norm_layer(tmp_path, prepared):
    config = replace(CONFIG, updates=2, warmup_updates=1)
    training = tmp_path / SIGNATURE
    pretrain(context(training, prepared), config)
    place = context(tmp_path / "analysis", prepared)
    place = replace(place, needs={"speech": prepared, "trained": training})
    outcome = norm_layers.analyze(place, config)
    arrays = np.load(place.directory / norm_layers.ARRAYS)
    # Two per block, one before or after all blocks; the features' norm may be kept.
    assert len(arrays["path"]) >= 2 * config.network.encoder_layers + 1
    assert np.isfinite(arrays["alpha"]).all()
    assert 0 < outcome.metrics["linear_share"] <= 100
    with pytest.raises(ValueError, match="does not fit"):
        wider = replace(config, network=replace(config.network, encoder_ffn_embed_dim=64))
        norm_layers.analyze(place, wider)
