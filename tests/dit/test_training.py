"""Training on latents: what a pair shares, evaluation, weights file, and resume."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from dyt import alphas
from dyt_dit import training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents

from ..learners import learner_of
from .tiny import (
    DYT,
    NETWORK,
    TRAINING,
    context,
    fingerprint,
    lines,
    states,
    trained,
)

DYT_TRAINING = replace(TRAINING, norm=DYT, zero_init=False)


@pytest.fixture(scope="module")
def pair(digits, tmp_path_factory):
    """Folder of uninterrupted trainings with LN and with DyT, and their outcomes."""
    folder = tmp_path_factory.mktemp("pair")
    configs = {"LN": TRAINING, "DyT": DYT_TRAINING}
    outcomes = {arm: trained(folder / arm, c, digits) for arm, c in configs.items()}
    return folder, outcomes


def test_both_arms_reduce_the_loss(pair):
    folder, outcomes = pair
    for arm in ("LN", "DyT"):
        losses = [line["loss"] for line in lines(folder / arm) if "loss" in line]
        assert losses[-1] < 0.75 * losses[0]
        assert set(outcomes[arm].metrics) == {"loss", "mse", "vb"} and not outcomes[arm].diverged


def test_arms_share_fingerprint(pair):
    folder, _ = pair
    assert fingerprint(folder / "LN") == fingerprint(folder / "DyT")


def test_seed_changes_weights_and_batches(pair, digits, tmp_path):
    folder, _ = pair
    trained(tmp_path / "other", replace(TRAINING, seed=1, epochs=1), digits)
    one, other = fingerprint(folder / "LN"), fingerprint(tmp_path / "other")
    assert one["weights"] != other["weights"]
    assert not set(one["batches"]) & set(other["batches"])


def test_weights_file_has_release_names_and_ema(pair):
    folder, _ = pair
    saved = states(folder / "DyT")
    assert set(saved) == {"ema", "model", "network", "autoencoder", "diffusion_steps"}
    assert saved["autoencoder"] == "pixels" and saved["network"]["width"] == NETWORK.width
    assert saved["ema"].keys() == saved["model"].keys()
    assert "blocks.1.attn.qkv.weight" in saved["ema"] and "blocks.1.norm2.alpha" in saved["ema"]
    weight = saved["model"]["blocks.0.mlp.fc1.weight"]
    assert not torch.equal(saved["ema"]["blocks.0.mlp.fc1.weight"], weight)


def test_without_ema_decay_ema_equals_weights(digits, tmp_path):
    trained(tmp_path / "x", replace(TRAINING, ema_decay=None, epochs=1), digits)
    saved = states(tmp_path / "x")
    assert all(torch.equal(saved["ema"][name], t) for name, t in saved["model"].items())


class Cut(Exception):
    """Exception that ends a run like a crash."""


def test_resumed_training_is_bit_identical(pair, digits, tmp_path, monkeypatch):
    folder, outcomes = pair
    compute_loss, losses = training.HybridLoss.__call__, []

    def cut(self, model, batch):
        losses.append(batch)
        if len(losses) == 31:  # two micro-batches per step, and an evaluation of four batches
            raise Cut
        return compute_loss(self, model, batch)

    where = {"checkpoint_steps": 4}
    monkeypatch.setattr(training.HybridLoss, "__call__", cut)
    with pytest.raises(Cut):
        trained(tmp_path / "DyT", DYT_TRAINING, digits, **where)
    monkeypatch.setattr(training.HybridLoss, "__call__", compute_loss)
    outcome = trained(tmp_path / "DyT", DYT_TRAINING, digits, **where)
    assert outcome == outcomes["DyT"]
    assert lines(tmp_path / "DyT") == lines(folder / "DyT")
    assert fingerprint(tmp_path / "DyT") == fingerprint(folder / "DyT")
    one, other = states(tmp_path / "DyT"), states(folder / "DyT")
    for part in ("ema", "model"):
        assert all(torch.equal(one[part][name], tensor) for name, tensor in other[part].items())


def test_add_noise_draws():
    """Each latent has its own step and noise; a tenth of the labels are dropped."""
    config = replace(TRAINING, class_dropout=0.1)
    torch.manual_seed(0)
    latents, labels = torch.zeros(20000, 1, 2, 2), torch.zeros(20000, dtype=torch.long)
    x, dropped, t, noise = training.AddNoise(config)([latents, labels])
    assert torch.equal(x, latents) and set(dropped.tolist()) == {0, NETWORK.classes}
    assert (dropped != 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=8)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert len(set(noise[:, 0, 0, 0].tolist())) > 19990


class Counting(nn.Module):
    """Model that predicts zero noise and records the steps and labels of its inputs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, t, labels):
        self.calls += zip(t.tolist(), labels.tolist(), strict=True)
        return torch.cat([torch.zeros_like(x), torch.zeros_like(x)], dim=1)


def evaluation(digits, tmp_path, config=TRAINING, **where):
    dataset = Latents(digits, "held_out")
    place = context(tmp_path, **where)
    return training.HeldOutLoss(dataset, Diffusion(1000), config, place, torch.device("cpu"))


def test_held_out_loss_spreads_steps_and_images_evenly(digits, tmp_path):
    model = Counting()
    metrics = evaluation(digits, tmp_path)(model)
    steps, labels = zip(*model.calls, strict=True)
    assert sorted(steps) == [10 * i + 5 for i in range(100)]
    assert set(labels) == set(range(10))
    indices, size = evaluation(digits, tmp_path).indices, len(Latents(digits, "held_out"))
    assert size > 200 and {b - a for a, b in pairwise(indices)} <= {size // 100, size // 100 + 1}
    # The error of predicting zero is the noise itself, whose variance is one.
    assert metrics["mse"] == pytest.approx(1, abs=0.05)
    assert metrics["loss"] == pytest.approx(metrics["mse"] + metrics["vb"])
    assert evaluation(digits, tmp_path)(Counting()) == metrics, "evaluation is deterministic"
    other = replace(TRAINING, seed=1)
    assert evaluation(digits, tmp_path, other)(Counting()) != metrics


def test_held_out_loss_with_three_processes(digits, tmp_path):
    config = replace(TRAINING, held_out=70, eval_batch=16)
    models = [Counting() for _ in range(3)]
    for rank, model in enumerate(models):
        evaluation(digits, tmp_path, config, rank=rank, world_size=3)(model)
    alone = Counting()
    evaluation(digits, tmp_path, config)(alone)
    # Two calls each, with 16 and 16, 16 and 6, and 16 and 1 images; the last is not counted.
    assert [len(model.calls) for model in models] == [32, 22, 17]
    shared = sorted(pair for model in models for pair in model.calls)
    shared.remove(alone.calls[0])  # the image that is not counted is the first
    assert shared == sorted(alone.calls)


def test_held_out_larger_than_data_set_uses_all_images(digits, tmp_path):
    model = Counting()
    evaluation(digits, tmp_path, replace(TRAINING, held_out=5000))(model)
    assert len(model.calls) == 360


def test_diverged_training_is_reported(digits, tmp_path):
    outcome = trained(tmp_path / "x", replace(TRAINING, lr=1e6, log_steps=1), digits)
    assert outcome.diverged and (tmp_path / "x" / "weights.pt").exists()


def test_learner_selects_the_lowest_loss(digits, tmp_path, monkeypatch):
    changes = {"ema_decay": 0.9, "betas": (0.8, 0.7), "weight_decay": 0.1}
    configs = (replace(DYT_TRAINING, **changes), replace(TRAINING, ema_decay=None))
    learner, plain = (
        learner_of(monkeypatch, training, trained, tmp_path / str(i), config, digits)
        for i, config in enumerate(configs)
    )
    assert learner.selection_metric == ("loss", "lower") and learner.alphas is alphas
    assert set(alphas(learner.model)) <= set(learner.norms)
    assert learner.ema.decay == 0.9 and plain.ema is None
    groups = learner.optimizer.param_groups
    assert all((g["lr"], g["betas"]) == (TRAINING.lr, (0.8, 0.7)) for g in groups)
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}


def test_weight_decay_excludes_1d_parameters():
    config = replace(DYT_TRAINING, weight_decay=0.1)
    model, _ = training.build(config)
    groups = training.optimizer(model, config).param_groups
    spared = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert spared == {id(p) for p in model.parameters() if p.ndim == 1}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "DyT"}, "norm is 'DyT'; expected a dyt.Norm"),
        ({"class_dropout": 1.5}, "class_dropout is 1.5; expected 0 to 1"),
        ({"held_out": 0}, "held_out is 0; expected a whole number"),
        ({"lr": 0.0}, "lr 0.0"),
    ],
)
def test_training_config_rejects_invalid_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(TRAINING, **setting)
