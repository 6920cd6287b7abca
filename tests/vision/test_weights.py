"""Pretrained weights in the releases' layout: written, read, and refused when they differ."""

import argparse
import os
from dataclasses import replace

import pytest
import torch

from dyt_vision import dino, finetuning, mae
from dyt_vision import weights as pretrained
from dyt_vision.dino_model import Backbone
from matched.training.artifacts import has_diverged

from .tiny import (
    ARMS,
    DYT,
    TINY_DINO,
    TINY_MAE,
    TINY_TUNING,
    assert_same,
    context,
    run,
    weights,
)


@pytest.fixture
def autoencoder():
    return mae.build(replace(TINY_MAE, seed=1))[0]


@pytest.fixture
def distilled():
    """Student and teacher with other weights."""
    model = dino.build(replace(TINY_DINO, seed=1))[0]
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(1)
    return model


def official(model, arguments=None):
    """A checkpoint as the DINO release writes it: DDP around the student, arguments, optimizer."""
    return {
        "student": {f"module.{name}": value for name, value in model.student.state_dict().items()},
        "teacher": dict(model.teacher.state_dict()),
        "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_base", out_dim=65536, **(arguments or {})),
        "dino_loss": {"center": model.center},
    }


def saved(folder, content):
    file = folder / "checkpoint.pth"
    torch.save(content, file)
    return file


class TestOfficialFiles:
    def test_mae(self, autoencoder, tmp_path):
        content = {"model": autoencoder.state_dict(), "epoch": 799, "scaler": {"scale": 65536.0}}
        content["args"] = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True)
        model, _ = mae.build(TINY_MAE)
        names = pretrained.load(model, saved(tmp_path, content))
        assert list(names) == list(autoencoder.state_dict())
        assert_same(weights(model), weights(autoencoder))

    @pytest.mark.parametrize("part", ["teacher", "student"])
    def test_dinos_networks(self, distilled, tmp_path, part):
        backbone = Backbone(TINY_DINO)
        pretrained.load(backbone, saved(tmp_path, official(distilled)), part=part)
        assert_same(weights(backbone), weights(getattr(distilled, part).backbone))

    def test_the_teacher_is_taken_before_the_student(self, distilled, tmp_path):
        found = pretrained.read(saved(tmp_path, official(distilled)))
        assert_same(found, weights(distilled.teacher.backbone))

    def test_a_bare_state_dict(self, autoencoder, distilled, tmp_path):
        for network in (autoencoder, distilled.teacher.backbone):  # the release's …_pretrain.pth
            found = pretrained.read(saved(tmp_path, network.state_dict()))
            assert_same(found, weights(network))

    def test_a_classifier_that_was_fine_tuned(self, tmp_path):
        one, two = (finetuning.build(replace(TINY_TUNING, seed=s), 10)[0] for s in (1, 2))
        pretrained.load(two, saved(tmp_path, {"model": one.state_dict()}))
        assert_same(weights(two), weights(one))


class TestExport:
    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    def test_what_mae_leaves_goes_into_a_new_model(self, small, tmp_path, norm):
        config = replace(TINY_MAE, norm=norm, epochs=1)
        run(mae.pretrain, tmp_path, config, images=small)
        content = torch.load(tmp_path / "pretrained.pth", weights_only=True)
        model, _ = mae.build(replace(config, seed=9))
        assert list(content) == ["model"] and list(content["model"]) == list(model.state_dict())
        model.load_state_dict(content["model"], strict=True)
        fresh, _ = mae.build(replace(config, seed=9))
        pretrained.load(fresh, tmp_path / "pretrained.pth")
        assert_same(weights(fresh), weights(model))
        assert not torch.equal(fresh.mask_token, mae.build(config)[0].mask_token)  # trained

    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    def test_what_dino_leaves_has_both_networks_with_their_heads(self, small, tmp_path, norm):
        config = replace(TINY_DINO, norm=norm, epochs=1)
        run(dino.pretrain, tmp_path, config, images=small)
        content = torch.load(tmp_path / "pretrained.pth", weights_only=True)
        model, _ = dino.build(replace(config, seed=9))
        assert list(content) == ["student", "teacher"]
        for part in content:
            network = getattr(model, part)
            assert list(content[part]) == list(network.state_dict())
            network.load_state_dict(content[part], strict=True)
            assert_same(
                pretrained.read(tmp_path / "pretrained.pth", part), weights(network.backbone)
            )
        assert not torch.equal(model.student.head.mlp[0].weight, model.teacher.head.mlp[0].weight)

    def test_nothing_but_the_file_is_left(self, autoencoder, tmp_path):
        pretrained.export(context(tmp_path), model=autoencoder.state_dict())
        assert [path.name for path in tmp_path.iterdir()] == ["pretrained.pth"]
        assert_same(pretrained.exported(tmp_path), weights(autoencoder))


class TestAnotherArchitecture:
    def refused(self, model, load):
        """The reason, and that nothing has been loaded."""
        before = weights(model)
        with pytest.raises(ValueError) as refusal:
            load()
        assert_same(weights(model), before)
        return str(refusal.value)

    def test_the_number_of_keys_that_differ_and_the_first_three_are_named(
        self, autoencoder, tmp_path
    ):
        file = saved(tmp_path, {"model": autoencoder.state_dict()})
        model, _ = mae.build(replace(TINY_MAE, norm=DYT))
        told = self.refused(model, lambda: pretrained.load(model, file))
        # An alpha for each of two norms in three blocks and two final ones.
        assert told == (
            f"{file} is of another architecture than MaskedAutoencoder: 8 keys differ, the first: "
            "blocks.0.norm1.alpha is missing in it; blocks.0.norm2.alpha is missing in it; "
            "blocks.1.norm1.alpha is missing in it. Nothing was loaded"
        )

    def test_what_the_model_does_not_know(self, tmp_path):
        other = mae.build(replace(TINY_MAE, norm=DYT))[0].state_dict()
        model, _ = mae.build(TINY_MAE)
        file = saved(tmp_path, other)
        told = self.refused(model, lambda: pretrained.load(model, file))
        assert "8 keys differ, the first: blocks.0.norm1.alpha is unknown to the model; " in told

    def test_other_shapes(self, tmp_path):
        other = mae.build(replace(TINY_MAE, decoder_width=8))[0].state_dict()
        model, _ = mae.build(TINY_MAE)
        file = saved(tmp_path, other)
        told = self.refused(model, lambda: pretrained.load(model, file))
        assert "the first: mask_token is (1, 1, 8) in it and (1, 1, 16) here; " in told

    def test_fewer_blocks_for_a_classifier(self, autoencoder):
        state = {n: t for n, t in autoencoder.state_dict().items() if "blocks.1." not in n}
        model, _ = finetuning.build(TINY_TUNING, 10)
        told = self.refused(model, lambda: pretrained.start_from(model, state))
        assert told.startswith(
            "the pretrained network is of another architecture than VisionTransformer: 12 keys "
            "differ, the first: blocks.1.norm1.weight is missing in it; "
        )

    def test_a_part_that_it_does_not_have(self, autoencoder, tmp_path):
        file = saved(tmp_path, {"model": autoencoder.state_dict(), "epoch": 1})
        with pytest.raises(ValueError, match="has no 'teacher'; it has model, epoch"):
            pretrained.read(file, "teacher")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TestNotACheckpoint:
    def refused(self, file, message):
        with pytest.raises(ValueError) as refusal:
            pretrained.read(file)
        assert str(refusal.value).startswith(f"{file} {message}") or str(
            refusal.value
        ) == message.format(file=file)

    def test_no_file(self, tmp_path):
        self.refused(tmp_path / "none.pth", "there is no checkpoint {file}")

    def test_a_text_file(self, tmp_path):
        file = tmp_path / "notes.pth"
        file.write_text("the weights are on the other disk\n")
        self.refused(file, "cannot be read as a torch checkpoint: ")

    def test_half_a_file(self, autoencoder, tmp_path):
        file = saved(tmp_path, autoencoder.state_dict())
        file.write_bytes(file.read_bytes()[:1000])
        self.refused(file, "cannot be read as a torch checkpoint: ")

    @pytest.mark.parametrize("content", [{"model": {"epoch": 3}}, [1, 2], {"lr": 0.1}, 7])
    def test_something_else_that_torch_has_saved(self, tmp_path, content):
        self.refused(saved(tmp_path, content), "holds no weights; expected a state dict, or one")

    def test_what_it_smuggles_in_is_not_executed(self, autoencoder, tmp_path):
        for smuggled in (
            Malicious(tmp_path / "made"),
            argparse.Namespace(x=Malicious(tmp_path / "made")),
        ):
            file = saved(tmp_path, {"model": autoencoder.state_dict(), "args": smuggled})
            self.refused(file, "cannot be read as a torch checkpoint: ")
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


class TestDiverged:
    def test_the_outcome_of_the_run_tells(self, tmp_path):
        assert not has_diverged(tmp_path)
        for outcome in ("done", "diverged"):
            (tmp_path / "result.json").write_text(f'{{"outcome": "{outcome}"}}')
            assert has_diverged(tmp_path) == (outcome == "diverged")
