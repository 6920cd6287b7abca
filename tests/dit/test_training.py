"""Training on latents: what a pair shares, what is evaluated, what is left, and resuming."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dyt_dit import training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents

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
    """Directories of LN and of DyT, trained whole, and their outcomes."""
    folder = tmp_path_factory.mktemp("pair")
    configs = {"LN": TRAINING, "DyT": DYT_TRAINING}
    outcomes = {arm: trained(folder / arm, c, digits) for arm, c in configs.items()}
    return folder, outcomes


def test_both_arms_learn(pair):
    folder, outcomes = pair
    for arm in ("LN", "DyT"):
        losses = [line["loss"] for line in lines(folder / arm) if "loss" in line]
        assert losses[-1] < 0.75 * losses[0]
        assert set(outcomes[arm].metrics) == {"loss", "mse", "vb"} and not outcomes[arm].diverged


def test_a_pair_has_weights_outside_norms_and_batches_in_common(pair):
    folder, _ = pair
    assert fingerprint(folder / "LN") == fingerprint(folder / "DyT")


def test_another_seed_draws_others(pair, digits, tmp_path):
    folder, _ = pair
    trained(tmp_path / "other", replace(TRAINING, seed=1, epochs=1), digits)
    one, other = fingerprint(folder / "LN"), fingerprint(tmp_path / "other")
    assert one["weights"] != other["weights"]
    assert not set(one["batches"]) & set(other["batches"])


def test_it_leaves_weights_and_their_average_under_the_names_of_the_release(pair):
    folder, _ = pair
    left = states(folder / "DyT")
    assert set(left) == {"ema", "model", "network", "autoencoder", "diffusion_steps"}
    assert left["autoencoder"] == "pixels" and left["network"]["width"] == NETWORK.width
    assert left["ema"].keys() == left["model"].keys()
    assert "blocks.1.attn.qkv.weight" in left["ema"] and "blocks.1.norm2.alpha" in left["ema"]
    moved = left["model"]["blocks.0.mlp.fc1.weight"]
    assert not torch.equal(left["ema"]["blocks.0.mlp.fc1.weight"], moved)


def test_without_an_average_the_weights_stand_in_its_place(digits, tmp_path):
    trained(tmp_path / "x", replace(TRAINING, ema_decay=None, epochs=1), digits)
    left = states(tmp_path / "x")
    assert all(torch.equal(left["ema"][name], t) for name, t in left["model"].items())


class Cut(Exception):
    """Stands for whatever ends a process in the middle of a run."""


def test_cut_and_resumed_it_ends_as_if_it_had_not_been(pair, digits, tmp_path, monkeypatch):
    folder, outcomes = pair
    whole, calls = training.HybridLoss.__call__, []

    def cut(self, model, batch):
        calls.append(batch)
        if len(calls) == 31:  # two micro-batches a step, and an evaluation of four batches
            raise Cut
        return whole(self, model, batch)

    where = {"checkpoint_steps": 4}
    monkeypatch.setattr(training.HybridLoss, "__call__", cut)
    with pytest.raises(Cut):
        trained(tmp_path / "DyT", DYT_TRAINING, digits, **where)
    monkeypatch.setattr(training.HybridLoss, "__call__", whole)
    outcome = trained(tmp_path / "DyT", DYT_TRAINING, digits, **where)
    assert outcome == outcomes["DyT"]
    assert lines(tmp_path / "DyT") == lines(folder / "DyT")
    assert fingerprint(tmp_path / "DyT") == fingerprint(folder / "DyT")
    one, other = states(tmp_path / "DyT"), states(folder / "DyT")
    for part in ("ema", "model"):
        assert all(torch.equal(one[part][name], tensor) for name, tensor in other[part].items())


def test_what_is_drawn_for_a_batch():
    """Each latent a step and noise of its own; a tenth of the labels become none."""
    config = replace(TRAINING, class_dropout=0.1)
    torch.manual_seed(0)
    latents, labels = torch.zeros(20000, 1, 2, 2), torch.zeros(20000, dtype=torch.long)
    x, dropped, t, noise = training.Noised(config)([latents, labels])
    assert torch.equal(x, latents) and set(dropped.tolist()) == {0, NETWORK.classes}
    assert (dropped != 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=8)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert len(set(noise[:, 0, 0, 0].tolist())) > 19990


class Counting(nn.Module):
    """Predicts no noise; remembers the steps and labels that it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, labels):
        self.asked += zip(t.tolist(), labels.tolist(), strict=True)
        return torch.cat([torch.zeros_like(x), torch.zeros_like(x)], dim=1)


def evaluation(digits, tmp_path, config=TRAINING, **where):
    dataset = Latents(digits, "held_out")
    place = context(tmp_path, **where)
    return training.HeldOutLoss(dataset, Diffusion(1000), config, place, torch.device("cpu"))


def test_evaluation_spreads_steps_and_images_evenly_and_drops_no_label(digits, tmp_path):
    model = Counting()
    metrics = evaluation(digits, tmp_path)(model)
    steps, labels = zip(*model.asked, strict=True)
    assert sorted(steps) == [10 * i + 5 for i in range(100)]
    assert set(labels) == set(range(10))
    # Who predicts nothing is wrong by the whole noise, whose variance is one.
    assert metrics["mse"] == pytest.approx(1, abs=0.05)
    assert metrics["loss"] == pytest.approx(metrics["mse"] + metrics["vb"])
    assert evaluation(digits, tmp_path)(Counting()) == metrics, "the same at every evaluation"
    other = replace(TRAINING, seed=1)
    assert evaluation(digits, tmp_path, other)(Counting()) != metrics


def test_shares_of_three_processes_are_the_whole_and_call_the_model_alike(digits, tmp_path):
    config = replace(TRAINING, held_out=70, eval_batch=16)
    models = [Counting() for _ in range(3)]
    for rank, model in enumerate(models):
        evaluation(digits, tmp_path, config, rank=rank, world_size=3)(model)
    alone = Counting()
    evaluation(digits, tmp_path, config)(alone)
    # Two calls each: of 16 and 16, of 16 and 6, of 16 and of one that does not count.
    assert [len(model.asked) for model in models] == [32, 22, 17]
    shared = sorted(pair for model in models for pair in model.asked)
    shared.remove(alone.asked[0])  # the one that does not count is the first
    assert shared == sorted(alone.asked)


def test_more_held_out_images_than_there_are_takes_all(digits, tmp_path):
    model = Counting()
    evaluation(digits, tmp_path, replace(TRAINING, held_out=5000))(model)
    assert len(model.asked) == 360


def test_a_training_that_diverges_says_so(digits, tmp_path):
    outcome = trained(tmp_path / "x", replace(TRAINING, lr=1e6, log_steps=1), digits)
    assert outcome.diverged and (tmp_path / "x" / "weights.pt").exists()


def test_decay_spares_parameters_of_one_dimension():
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
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(TRAINING, **setting)
