"""Analysis of the norm layers of a pretrained wav2vec 2.0."""

import shutil
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_wav2vec import model, norm_layers
from dyt_wav2vec.config import ReleasedWeights
from dyt_wav2vec.pretraining import pretrain
from dyt_wav2vec.released_weights import import_weights
from dyt_wav2vec.sources import check_weights

from ..messages import refused
from .problem import CONFIG, OWN, SIGNATURE, context


def test_analyze_records_every_norm_layer(tmp_path, prepared, monkeypatch):
    config = replace(CONFIG, updates=2, warmup_updates=1)
    training = tmp_path / SIGNATURE
    pretrain(context(training, prepared), config)
    place = context(tmp_path / "analysis", prepared)
    place = replace(place, needs={"speech": prepared, "trained": training})
    record = norm_layers.record_norms

    def record_of_evaluation(model, *arguments, **options):
        assert not any(module.training for module in model.modules())
        return record(model, *arguments, **options)

    monkeypatch.setattr(norm_layers, "record_norms", record_of_evaluation)
    outcome = norm_layers.analyze(place, config)
    arrays = np.load(place.directory / "norm_layers.npz")
    (newest,) = (training / "checkpoints").glob("*")
    state = torch.load(newest, weights_only=False)["model"]
    trained = [state[f"{path}.alpha"].item() for path in arrays["path"]]
    assert arrays["alpha"].tolist() == pytest.approx(trained, rel=1e-6)
    assert len(set(trained)) == len(trained)
    # Two per block, one before or after all blocks; the features' norm may be kept.
    assert len(arrays["path"]) >= 2 * config.network.encoder_layers + 1
    assert np.isfinite(arrays["alpha"]).all()
    assert 0 < outcome.metrics["linear_share"] <= 100
    wider = replace(config, network=replace(config.network, encoder_ffn_embed_dim=64))
    message = refused(norm_layers.analyze, place, wider)
    # Two weights and a bias per block.
    count = 3 * config.network.encoder_layers
    assert message.startswith(
        f"the checkpoint of {training} does not fit: {count} keys differ, the first: encoder."
    )
    shutil.rmtree(training / "checkpoints")
    assert refused(norm_layers.analyze, place, config) == (
        f"{training} has no intact checkpoint; run it again"
    )


def test_analyze_reads_weights_in_fairseqs_form(tmp_path, prepared):
    network, _ = model.build(CONFIG.network, OWN, seed=5)
    file = tmp_path / "libri.pt"
    # As in fairseq's releases: with the arguments of its command.
    torch.save({"args": Namespace(arch="wav2vec2"), "model": network.state_dict()}, file)
    place = context(tmp_path / "imported", prepared)
    place = replace(place, data={"wav2vec2-large-weights": file})
    import_weights(place, ReleasedWeights(network=CONFIG.network))
    analysis = context(tmp_path / "analysis", prepared)
    analysis = replace(analysis, needs={"speech": prepared, "trained": place.directory})
    outcome = norm_layers.analyze(analysis, replace(CONFIG, norm=OWN))
    assert (analysis.directory / outcome.details["picture"]).is_file()
    pre_norm = replace(CONFIG.network, encoder_ffn_embed_dim=64)
    with pytest.raises(ValueError, match="of another architecture than Wav2Vec2Model"):
        import_weights(place, ReleasedWeights(network=pre_norm))
    torch.save(network.state_dict(), file)
    assert refused(import_weights, place, ReleasedWeights(network=CONFIG.network)) == (
        f"{file} has no weights under 'model'; expected a checkpoint of fairseq, such as "
        "libri960_big.pt"
    )


def test_missing_wav2vec_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected fairseq's checkpoint of wav2vec 2\.0 Large"):
        check_weights(tmp_path / "none.pt")
