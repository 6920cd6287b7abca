"""Combinations that no recipe has and a config allows, and what is said when things are lost."""

import errno
from dataclasses import replace

import pytest
import torch
from torch import nn

from dyt import Norm
from dyt_vision import dino, finetuning, mae, probing, weights
from dyt_vision.normfree import NormFree
from matched.task import Context
from matched.training import weights_digest

from .tiny import TINY_DINO, TINY_MAE, TINY_PROBING, TINY_TUNING, context, run

ONE_EPOCH = replace(TINY_DINO, epochs=1)
SIGMA, FIXUP = NormFree(method="sigma_reparam"), NormFree(method="fixup")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_dino_in_half_precision(small, tmp_path, precision):
    outcome, _ = run(dino.pretrain, tmp_path, replace(ONE_EPOCH, precision=precision), images=small)
    assert not outcome.diverged and 0 <= outcome.metrics["knn"] <= 100


@pytest.mark.parametrize(
    "norm", [FIXUP, SIGMA, NormFree(method="skipinit"), Norm.batch_norm()], ids=str
)
def test_dino_with_another_method_can_be_probed(small, tmp_path, norm):
    config = replace(ONE_EPOCH, norm=norm)
    _, start = run(dino.pretrain, tmp_path / "dino", config, images=small)
    probe = replace(TINY_PROBING, norm=norm)
    needs = {"pretrained": start}
    outcome, _ = run(probing.train, tmp_path / "probe", probe, images=small, needs=needs)
    assert outcome.steps == 4


@pytest.mark.parametrize("norm", [SIGMA, Norm.batch_norm()], ids=str)
def test_dinos_teacher_has_the_buffers_of_its_student(norm):
    model, _ = dino.build(replace(TINY_DINO, norm=norm))
    model.train()
    crops = [torch.randn(2, 3, size, size) for size in (16, 16, 8, 8)]
    model(crops, 0.04)
    mine, its = (dict(part.named_buffers()) for part in (model.student, model.teacher))
    assert mine and any(not torch.equal(mine[name], its[name]) for name in mine)
    model.follow(0.99)
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_a_weight_under_another_name_is_the_same_weight():
    """σReparam's pair with LN is held to equal initial weights."""
    own, sigma = (mae.build(replace(TINY_MAE, norm=norm)) for norm in (Norm.own(), SIGMA))
    assert weights_digest(*own) == weights_digest(*sigma)
    with torch.no_grad():
        sigma[0].blocks[0].mlp.fc1.parametrizations.weight.original[0, 0] += 1
    assert weights_digest(*own) != weights_digest(*sigma)


def test_so_is_one_that_was_inherited(tmp_path):
    """Of two classifiers that start from other networks, what is new is compared."""
    digests = []
    for norm in (Norm.own(), SIGMA):
        start = tmp_path / str(norm)
        weights.export(
            context(start), model=mae.build(replace(TINY_MAE, norm=norm, seed=1))[0].state_dict()
        )
        model, paths = finetuning.build(replace(TINY_TUNING, norm=norm), 10)
        inherited = weights.start_from(model, weights.exported(start))
        digests.append(weights_digest(model, paths, inherited))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "config", [TINY_MAE, TINY_DINO, TINY_PROBING], ids=lambda c: type(c).__name__
)
def test_an_average_that_would_not_be_kept_is_refused(config):
    with pytest.raises(ValueError, match=r"ema_decay is 0.9; \w+ keeps no average"):
        replace(config, ema_decay=0.9)


def test_fine_tuning_with_sgd_is_refused():
    with pytest.raises(ValueError, match="fine-tuning knows 'adamw' alone"):
        replace(TINY_TUNING, optimizer="sgd")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": tuple(a for a in TINY_TUNING.model_args if a[0] != "global_pool")},
        {"model": "dyt_vision.small:vgg", "model_args": (), "drop_path": 0.0},
    ],
    ids=["a ViT that does not pool", "no ViT"],
)
def test_a_model_that_is_not_fine_tuned_here(changes):
    with pytest.raises(ValueError, match="is not fine-tuned here: expected one of timm's ViTs"):
        finetuning.build(replace(TINY_TUNING, **changes), 10)


def test_a_probe_without_a_pretraining(small, tmp_path):
    with pytest.raises(ValueError, match='a probe needs a pretraining run under the name "pretr'):
        run(probing.train, tmp_path, TINY_PROBING, images=small)


@pytest.mark.parametrize("content", [None, b"cut"], ids=["lost", "damaged"])
def test_weights_of_a_finished_pretraining_that_are_gone(tmp_path, content):
    if content is not None:
        (tmp_path / "pretrained.pth").write_bytes(content)
    with pytest.raises(ValueError) as told:
        weights.exported(tmp_path)
    assert str(tmp_path / "pretrained.pth") in str(told.value)
    assert f"delete {tmp_path / 'result.json'} and submit again" in str(told.value)


def test_a_file_of_something_else_that_a_teacher_is_asked_of(tmp_path):
    torch.save(7, tmp_path / "seven.pth")
    with pytest.raises(ValueError, match=r"seven.pth has no 'teacher'; it has <class 'int'>"):
        weights.read(tmp_path / "seven.pth", part="teacher")


def test_a_disk_without_room_costs_the_picture_and_not_the_run(
    small, tmp_path, monkeypatch, caplog
):
    atomic_write = Context.atomic_write

    def full(self, name):
        if name == mae.PICTURE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return atomic_write(self, name)

    monkeypatch.setattr(Context, "atomic_write", full)
    outcome, _ = run(mae.pretrain, tmp_path, replace(TINY_MAE, epochs=1), images=small)
    assert outcome.metrics["loss"] > 0
    assert "reconstructions.png could not be written: " in caplog.text


def test_running_statistics_are_not_drawn_into_the_initial_weights():
    """A pair with BN in one arm has one fingerprint: the norms' buffers are left out too."""
    own, bn = (mae.build(replace(TINY_MAE, norm=norm)) for norm in (Norm.own(), Norm.batch_norm()))
    assert isinstance(bn[0].norm, nn.modules.batchnorm._BatchNorm)
    assert weights_digest(*own) == weights_digest(*bn)
