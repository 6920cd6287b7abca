"""The arm "DyT (calibrated)" of language models: α and γ fitted to training samples."""

import json
from dataclasses import replace

import torch

from dyt import Norm, alphas
from dyt_llama import pretraining, weights
from dyt_llama.model import build, build_on_meta

from ..messages import refused
from .tiny import CONFIG, CPU, DYT, OWN, RMSNORM, context, pretrained

CALIBRATED = replace(CONFIG, norm=Norm.dyt("calibrated"), steps=4)


def materialized(config, tokens, directory, **changes):
    """Return the network of a run before its first step."""
    model = build_on_meta(config.network, config.norm, embedding_scale=True).model
    train = pretraining._samples(
        context(directory, needs={"tokens": tokens}),
        config,
        pretraining.Manifest.read(tokens),
        "train",
    )
    where = context(directory, **changes)
    pretraining.make_materialize(where, config, model, train, CPU)()
    return model


def test_calibrated_network_fits_samples_of_the_seed(glosses_run, tmp_path):
    first, again = (materialized(CALIBRATED, glosses_run, tmp_path) for _ in range(2))
    assert alphas(first) == alphas(again)
    assert len(set(alphas(first).values())) == 7
    assert 0.5 not in alphas(first).values()
    plain = build(CONFIG.network, OWN, seed=0, device=CPU, embedding_scale=True).model.state_dict()
    for name, value in first.state_dict().items():
        if "norm" not in name:
            assert torch.equal(value, plain[name]), name
    assert first.model.norm.weight.std() == 0
    assert first.model.norm.weight[0] != 1


def test_calibrated_run_matches_the_baseline_and_its_weights_load(glosses_run, tmp_path):
    pretrained(tmp_path / "own", glosses_run, replace(CONFIG, **RMSNORM, steps=4))
    outcome = pretrained(tmp_path / "calibrated", glosses_run, CALIBRATED)
    one, other = (
        json.loads((tmp_path / arm / "fingerprint.json").read_text())
        for arm in ("own", "calibrated")
    )
    assert one == other
    assert not outcome.diverged
    assert 0.5 not in alphas(weights.load(tmp_path / "calibrated" / "weights")).values()


def test_calibration_of_a_sharded_run_is_refused(glosses_run, tmp_path):
    where = {"shard": True, "world_size": 2}
    assert refused(materialized, CALIBRATED, glosses_run, tmp_path, **where) == (
        f"norm is {CALIBRATED.norm}, and the run is sharded, but calibration needs the whole "
        "network; set shard=False in the recipe's resources, or give alpha0 a number"
    )
    materialized(CALIBRATED, glosses_run, tmp_path, shard=False, world_size=2)
    materialized(replace(CONFIG, norm=DYT), glosses_run, tmp_path, **where)
