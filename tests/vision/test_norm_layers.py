"""Analysis of the norm layers of a trained classifier, and records of α during training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt import Norm
from dyt_vision import models, norm_layers, supervised
from matched.training.checkpoint import load_weights
from matched.training.seeding import generator

from .tiny import TINY_VIT, context, fingerprint, loaded

SIGNATURE = "abcdef012345"
PATHS = ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "fc_norm"]
DYT = Norm.dyt(alpha0=0.8)


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """Return arm → the directory of the analysis, its outcome, and the last line on training."""
    found = {}
    for arm, norm in {"LN": Norm.own(), "DyT": DYT}.items():
        folder = tmp_path_factory.mktemp(arm)
        config = replace(TINY_VIT, norm=norm)
        training = folder / SIGNATURE
        supervised.train(context(training), config)
        outcome = norm_layers.analyze(
            context(folder / "analysis", needs={"trained": training}), config
        )
        found[arm] = folder / "analysis", outcome
    return found


def arrays(analyzed, arm):
    return np.load(analyzed[arm][0] / "norm_layers.npz")


@pytest.mark.parametrize("arm", ["LN", "DyT"])
def test_analyze_records_every_norm_layer(analyzed, arm):
    content = arrays(analyzed, arm)
    assert content["path"].tolist() == PATHS
    assert content["fit"].shape == (5, 8)
    assert content["x0"].shape == content["y0"].shape == (64, 32)
    _, outcome = analyzed[arm]
    assert set(outcome.metrics) >= {"gain_early", "gain_deep", "gain_difference", "linear_share"}
    assert ("alpha_correlation" in outcome.metrics) == (arm == "DyT")


def test_analyze_sees_the_trained_ema_weights(analyzed):
    content = arrays(analyzed, "DyT")
    assert not np.allclose(content["alpha"], 0.8)  # α has been trained
    # In half precision: tanh(αx) of the recorded inputs.
    expected = np.tanh(content["alpha"][4] * content["x4"].astype(float))
    assert np.allclose(content["y4"], expected, atol=3e-3)
    assert np.isnan(arrays(analyzed, "LN")["alpha"]).all()


def test_analyze_of_ln_has_outputs_of_unit_variance(analyzed):
    outputs = arrays(analyzed, "LN")["y0"].astype(float)
    assert np.allclose(outputs.mean(axis=1), 0, atol=1e-2)
    assert np.allclose(outputs.std(axis=1), 1, atol=1e-2)


def test_analyze_of_both_arms_sees_the_same_images(analyzed):
    assert fingerprint(analyzed["LN"][0]) == fingerprint(analyzed["DyT"][0])


def test_analyze_refuses_weights_of_another_network(tmp_path):
    training = tmp_path / SIGNATURE
    supervised.train(context(training), TINY_VIT)
    arguments = dict(TINY_VIT.model_args) | {"depth": 3}
    deeper = replace(TINY_VIT, model_args=tuple(arguments.items()))
    with pytest.raises(
        ValueError,
        match=r"does not fit: \d+ keys differ, the first: blocks\.2\.\S+ is missing in it",
    ):
        norm_layers.analyze(context(tmp_path / "a", needs={"trained": training}), deeper)
    for path in (training / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="has no intact checkpoint"):
        norm_layers.analyze(context(tmp_path / "a", needs={"trained": training}), TINY_VIT)


def test_train_and_record_trains_as_usual_and_records_alpha(tmp_path):
    config = replace(TINY_VIT, norm=DYT)
    recorded = norm_layers.train_and_record(context(tmp_path / SIGNATURE), config)
    usual = supervised.train(context(tmp_path / "usual"), config)
    assert recorded.metrics.items() >= usual.metrics.items()
    more = {name: recorded.metrics[name] for name in recorded.metrics.keys() - usual.metrics.keys()}
    model, _ = models.build(config, 10)
    load_weights(model, tmp_path / SIGNATURE)  # the EMA weights
    held_out = loaded(config).held_out
    chosen = torch.randperm(360, generator=generator(config.seed, "norm layers"))[:32]
    images = torch.stack([held_out[i][0] for i in chosen.tolist()])
    inputs = {}
    for path in PATHS:
        model.get_submodule(path).register_forward_hook(
            lambda module, given, output, path=path: inputs.update({path: given[0]})
        )
    with torch.no_grad():
        model.eval()(images)
    alphas = {f"alpha/{path}": model.get_submodule(path).alpha.item() for path in PATHS}
    stds = {f"inverse_std/{path}": 1 / inputs[path].std(correction=0).item() for path in PATHS}
    assert more == pytest.approx({**alphas, **stds}, rel=2e-3)  # under autocast
