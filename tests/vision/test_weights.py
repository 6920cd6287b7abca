"""Pretrained weights in the releases' layout: export, loading, refusal of other architectures."""

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
    """Return a student and a teacher with different weights."""
    model = dino.build(replace(TINY_DINO, seed=1))[0]
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(1)
    return model


def official(model, arguments=None):
    """Return a checkpoint as the DINO release writes it: DDP student, arguments, optimizer."""
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
    def test_load_mae_checkpoint(self, autoencoder, tmp_path):
        content = {"model": autoencoder.state_dict(), "epoch": 799, "scaler": {"scale": 65536.0}}
        content["args"] = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True)
        model, _ = mae.build(TINY_MAE)
        names = pretrained.load(model, saved(tmp_path, content))
        assert list(names) == list(autoencoder.state_dict())
        assert_same(weights(model), weights(autoencoder))

    @pytest.mark.parametrize("part", ["teacher", "student"])
    def test_load_dino_student_and_teacher(self, distilled, tmp_path, part):
        backbone = Backbone(TINY_DINO)
        pretrained.load(backbone, saved(tmp_path, official(distilled)), part=part)
        assert_same(weights(backbone), weights(getattr(distilled, part).backbone))

    def test_read_prefers_the_teacher_to_the_student(self, distilled, tmp_path):
        found = pretrained.read(saved(tmp_path, official(distilled)))
        assert_same(found, weights(distilled.teacher.backbone))

    def test_read_accepts_a_bare_state_dict(self, autoencoder, distilled, tmp_path):
        for network in (autoencoder, distilled.teacher.backbone):  # the release's …_pretrain.pth
            found = pretrained.read(saved(tmp_path, network.state_dict()))
            assert_same(found, weights(network))

    def test_load_fine_tuned_classifier(self, tmp_path):
        one, two = (finetuning.build(replace(TINY_TUNING, seed=s), 10)[0] for s in (1, 2))
        pretrained.load(two, saved(tmp_path, {"model": one.state_dict()}))
        assert_same(weights(two), weights(one))


class TestExport:
    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    def test_exported_mae_loads_into_a_new_model(self, small, tmp_path, norm):
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
    def test_exported_dino_has_both_networks_with_heads(self, small, tmp_path, norm):
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

    def test_export_leaves_no_temporary_file(self, autoencoder, tmp_path):
        pretrained.export(context(tmp_path), model=autoencoder.state_dict())
        assert [path.name for path in tmp_path.iterdir()] == ["pretrained.pth"]
        assert_same(pretrained.read_exported(tmp_path), weights(autoencoder))


class TestAnotherArchitecture:
    def refused(self, model, load):
        """Return the error message of ``load``; assert that nothing was loaded."""
        before = weights(model)
        with pytest.raises(ValueError) as refusal:
            load()
        assert_same(weights(model), before)
        return str(refusal.value)

    def test_load_names_the_first_three_missing_keys(self, autoencoder, tmp_path):
        file = saved(tmp_path, {"model": autoencoder.state_dict()})
        model, _ = mae.build(replace(TINY_MAE, norm=DYT))
        message = self.refused(model, lambda: pretrained.load(model, file))
        # An alpha for each of two norms in three blocks and two final ones.
        assert message == (
            f"{file} is of another architecture than MaskedAutoencoder: 8 keys differ, the first: "
            "blocks.0.norm1.alpha is missing in it; blocks.0.norm2.alpha is missing in it; "
            "blocks.1.norm1.alpha is missing in it. Nothing was loaded"
        )

    def test_load_refuses_unknown_keys(self, tmp_path):
        other = mae.build(replace(TINY_MAE, norm=DYT))[0].state_dict()
        model, _ = mae.build(TINY_MAE)
        file = saved(tmp_path, other)
        message = self.refused(model, lambda: pretrained.load(model, file))
        assert "8 keys differ, the first: blocks.0.norm1.alpha is unknown to the model; " in message

    def test_load_refuses_other_shapes(self, tmp_path):
        other = mae.build(replace(TINY_MAE, decoder_width=8))[0].state_dict()
        model, _ = mae.build(TINY_MAE)
        file = saved(tmp_path, other)
        message = self.refused(model, lambda: pretrained.load(model, file))
        assert "the first: mask_token is (1, 1, 8) in it and (1, 1, 16) here; " in message

    def test_load_encoder_refuses_a_smaller_depth(self, autoencoder):
        state = {n: t for n, t in autoencoder.state_dict().items() if "blocks.1." not in n}
        model, _ = finetuning.build(TINY_TUNING, 10)
        message = self.refused(model, lambda: pretrained.load_encoder(model, state))
        assert message.startswith(
            "the pretrained network is of another architecture than VisionTransformer: 12 keys "
            "differ, the first: blocks.1.norm1.weight is missing in it; "
        )

    def test_read_names_the_parts_of_the_file(self, autoencoder, tmp_path):
        file = saved(tmp_path, {"model": autoencoder.state_dict(), "epoch": 1})
        with pytest.raises(ValueError, match="has no 'teacher'; it has model, epoch"):
            pretrained.read(file, "teacher")


class Malicious:
    """Object that creates a folder when it is unpickled."""

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

    def test_read_missing_file(self, tmp_path):
        self.refused(tmp_path / "none.pth", "there is no checkpoint {file}")

    def test_read_text_file(self, tmp_path):
        file = tmp_path / "notes.pth"
        file.write_text("the weights are on the other disk\n")
        self.refused(file, "cannot be read as a torch checkpoint: ")

    def test_read_truncated_file(self, autoencoder, tmp_path):
        file = saved(tmp_path, autoencoder.state_dict())
        file.write_bytes(file.read_bytes()[:1000])
        self.refused(file, "cannot be read as a torch checkpoint: ")

    @pytest.mark.parametrize("content", [{"model": {"epoch": 3}}, [1, 2], {"lr": 0.1}, 7])
    def test_read_refuses_files_without_weights(self, tmp_path, content):
        self.refused(saved(tmp_path, content), "contains no weights; expected a state dict, or one")

    def test_read_does_not_execute_pickled_code(self, autoencoder, tmp_path):
        for payload in (
            Malicious(tmp_path / "created"),
            argparse.Namespace(x=Malicious(tmp_path / "created")),
        ):
            file = saved(tmp_path, {"model": autoencoder.state_dict(), "args": payload})
            self.refused(file, "cannot be read as a torch checkpoint: ")
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


class TestDiverged:
    def test_has_diverged_reads_the_outcome(self, tmp_path):
        assert not has_diverged(tmp_path)
        for outcome in ("done", "diverged"):
            (tmp_path / "result.json").write_text(f'{{"outcome": "{outcome}"}}')
            assert has_diverged(tmp_path) == (outcome == "diverged")
