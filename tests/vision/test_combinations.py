"""Combinations of settings that no recipe uses, refused configs, missing files, a full disk."""

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

from ..messages import refused
from .tiny import TINY_DINO, TINY_MAE, TINY_PROBING, TINY_TUNING, context, run

ONE_EPOCH = replace(TINY_DINO, epochs=1)
SIGMA, FIXUP = NormFree(method="sigma_reparam"), NormFree(method="fixup")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_dino_trains_in_half_precision(small, tmp_path, precision):
    outcome, _ = run(dino.pretrain, tmp_path, replace(ONE_EPOCH, precision=precision), images=small)
    assert not outcome.diverged and 0 <= outcome.metrics["knn"] <= 100


@pytest.mark.parametrize(
    "norm", [FIXUP, SIGMA, NormFree(method="skipinit"), Norm.batch_norm()], ids=str
)
def test_dino_with_other_norms_can_be_probed(small, tmp_path, norm):
    config = replace(ONE_EPOCH, norm=norm)
    _, start = run(dino.pretrain, tmp_path / "dino", config, images=small)
    probe = replace(TINY_PROBING, norm=norm)
    needs = {"pretrained": start}
    outcome, _ = run(probing.train, tmp_path / "probe", probe, images=small, needs=needs)
    assert outcome.steps == 4


@pytest.mark.parametrize("norm", [SIGMA, Norm.batch_norm()], ids=str)
def test_update_teacher_copies_the_buffers_of_the_student(norm):
    model, _ = dino.build(replace(TINY_DINO, norm=norm))
    model.train()
    crops = [torch.randn(2, 3, size, size) for size in (16, 16, 8, 8)]
    model(crops, 0.04)
    student, teacher = (dict(part.named_buffers()) for part in (model.student, model.teacher))
    assert student and any(not torch.equal(student[name], teacher[name]) for name in student)
    model.update_teacher(0.99)
    assert all(torch.equal(student[name], teacher[name]) for name in student)


def test_weights_digest_ignores_sigma_reparam_renaming():
    """A pair of σReparam and LN must have equal initial weights."""
    own, sigma = (mae.build(replace(TINY_MAE, norm=norm)) for norm in (Norm.own(), SIGMA))
    assert weights_digest(*own) == weights_digest(*sigma)
    with torch.no_grad():
        sigma[0].blocks[0].mlp.fc1.parametrizations.weight.original[0, 0] += 1
    assert weights_digest(*own) != weights_digest(*sigma)


def test_weights_digest_ignores_inherited_weights_renamed_by_sigma_reparam(tmp_path):
    """Only newly initialized weights of fine-tuned classifiers are compared."""
    digests = []
    for norm in (Norm.own(), SIGMA):
        start = tmp_path / str(norm)
        weights.export(
            context(start), model=mae.build(replace(TINY_MAE, norm=norm, seed=1))[0].state_dict()
        )
        model, paths = finetuning.build(replace(TINY_TUNING, norm=norm), 10)
        inherited = weights.load_encoder(model, weights.read_exported(start))
        digests.append(weights_digest(model, paths, inherited))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "config", [TINY_MAE, TINY_DINO, TINY_PROBING], ids=lambda c: type(c).__name__
)
def test_pretraining_and_probing_refuse_ema_decay(config):
    with pytest.raises(ValueError, match=r"ema_decay is 0.9; \w+ does not support an EMA"):
        replace(config, ema_decay=0.9)


def test_fine_tuning_refuses_sgd():
    with pytest.raises(ValueError, match="fine-tuning supports only 'adamw'"):
        replace(TINY_TUNING, optimizer="sgd")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": tuple(a for a in TINY_TUNING.model_args if a[0] != "global_pool")},
        {"model": "dyt_vision.small:vgg", "model_args": (), "drop_path": 0.0},
    ],
    ids=["ViT without pooling", "not a ViT"],
)
def test_fine_tuning_refuses_models_without_pooling(changes):
    config = replace(TINY_TUNING, **changes)
    assert refused(finetuning.build, config, 10) == (
        f"{config.model} with {dict(config.model_args)} cannot be fine-tuned; expected a timm ViT "
        "with model_args=(('global_pool', 'avg'),), which normalizes after pooling"
    )


def test_probing_requires_a_pretraining_run(small, tmp_path):
    assert refused(run, probing.train, tmp_path, TINY_PROBING, images=small) == (
        'a probe needs a pretraining run under the name "pretrained"'
    )


@pytest.mark.parametrize("content", [None, b"cut"], ids=["missing", "damaged"])
def test_read_exported_explains_how_to_recreate_the_file(tmp_path, content):
    if content is not None:
        (tmp_path / "pretrained.pth").write_bytes(content)
    message = refused(weights.read_exported, tmp_path)
    assert str(tmp_path / "pretrained.pth") in message
    assert message.endswith(
        f". The pretraining has ended: delete {tmp_path / 'result.json'} and submit again, which "
        "recreates the file from the last checkpoint"
    )


def test_read_reports_a_file_without_a_teacher(tmp_path):
    torch.save(7, tmp_path / "seven.pth")
    file = tmp_path / "seven.pth"
    assert refused(weights.read, file, part="teacher") == (
        f"{file} has no 'teacher'; it has <class 'int'>"
    )


def test_full_disk_loses_the_picture_but_not_the_run(small, tmp_path, monkeypatch, caplog):
    atomic_write = Context.atomic_write

    def raise_no_space(self, name):
        if name == mae.PICTURE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return atomic_write(self, name)

    monkeypatch.setattr(Context, "atomic_write", raise_no_space)
    outcome, _ = run(mae.pretrain, tmp_path, replace(TINY_MAE, epochs=1), images=small)
    assert outcome.metrics["loss"] > 0
    assert "reconstructions.png could not be written: " in caplog.text


def test_weights_digest_ignores_running_statistics_of_norms():
    """Arms with LN and BN have equal fingerprints: the norms' buffers are not compared."""
    own, bn = (mae.build(replace(TINY_MAE, norm=norm)) for norm in (Norm.own(), Norm.batch_norm()))
    assert isinstance(bn[0].norm, nn.modules.batchnorm._BatchNorm)
    assert weights_digest(*own) == weights_digest(*bn)
