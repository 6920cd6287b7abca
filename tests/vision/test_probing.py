"""Linear probing: features, the frozen teacher, the trained linear layer."""

import json
from dataclasses import replace

import pytest
import torch

from dyt_vision import dino, mae, probing
from dyt_vision import weights as pretrained
from matched.training.artifacts import PRETRAINING_DIVERGED

from .tiny import (
    ARMS,
    DYT,
    TINY_DINO,
    TINY_MAE,
    TINY_PROBING,
    assert_resume_is_bit_identical,
    assert_same,
    fingerprint,
    learner,
    run,
    weights,
)


@pytest.fixture(scope="module")
def started(small, tmp_path_factory):
    """Return the directories of DINO's two arms."""
    folder = tmp_path_factory.mktemp("pretraining")
    return {
        arm: run(dino.pretrain, folder / arm, replace(TINY_DINO, norm=norm), images=small)[1]
        for arm, norm in ARMS.items()
    }


def probed(directory, small, start, **changes):
    config = replace(TINY_PROBING, **changes)
    return run(probing.train, directory, config, images=small, needs={"pretrained": start})


def made(monkeypatch, directory, small, start, **changes):
    where = {"data": {"imagenet": small}, "needs": {"pretrained": start}}
    config = replace(TINY_PROBING, **changes)
    return learner(monkeypatch, directory, config, probing, **where)


class TestFeatures:
    @pytest.mark.parametrize("blocks, pool, size", [(1, True, 64), (2, False, 64), (2, True, 96)])
    def test_features_are_normed_class_tokens_and_mean_patch(self, started, blocks, pool, size):
        config = replace(TINY_PROBING, blocks=blocks, pool=pool)
        probe, _, _ = probing.build(config, started["LN"], 10)
        backbone = probe.backbone
        image = torch.randn(3, 3, 16, 16)
        x = backbone.patch_embed(image).flatten(1, 2)
        x = torch.cat([backbone.cls_token.expand(3, -1, -1), x], dim=1) + backbone.pos_embed
        outputs = []
        for block in backbone.blocks:
            x = block(x)
            outputs.append(backbone.norm(x))
        parts = [tokens[:, 0] for tokens in outputs[-blocks:]]
        if pool:
            parts.append(outputs[-1][:, 1:].mean(dim=1))
        features = torch.cat(parts, dim=1)
        assert probe.features(image).shape == features.shape == (3, size)
        torch.testing.assert_close(probe.features(image), features)
        expected = features @ probe.linear.weight.T + probe.linear.bias
        torch.testing.assert_close(probe(image), expected)

    def test_linear_layer_starts_small(self, started):
        linear = probing.build(TINY_PROBING, started["LN"], 1000)[0].linear
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not linear.bias.any()


class TestRun:
    def test_backbone_is_the_unchanged_pretrained_teacher(
        self, monkeypatch, tmp_path, small, started
    ):
        probes = []
        build = probing.build

        def build_and_record(*arguments):
            built = build(*arguments)
            probes.append((built[0], weights(built[0])))
            return built

        monkeypatch.setattr(probing, "build", build_and_record)
        outcome, _ = probed(tmp_path, small, started["LN"])
        assert (outcome.steps, outcome.metrics.keys()) == (4, {"top1", "top5", "loss"})
        ((probe, before),) = probes
        teacher = torch.load(started["LN"] / "pretrained.pth", weights_only=True)["teacher"]
        for name, tensor in probe.backbone.state_dict().items():
            assert torch.equal(tensor, teacher[f"backbone.{name}"]), name
        for name in ("linear.weight", "linear.bias"):
            assert not torch.equal(probe.state_dict()[name], before[name])

    def test_only_the_linear_layer_is_trained(self, monkeypatch, tmp_path, small, started):
        made_here = made(monkeypatch, tmp_path, small, started["LN"], lr=0.3, weight_decay=0.0)
        probe, sgd = made_here.model, made_here.optimizer
        assert {n for n, p in probe.named_parameters() if p.requires_grad} == {
            "linear.weight",
            "linear.bias",
        }
        assert type(sgd) is torch.optim.SGD
        (group,) = sgd.param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in probe.linear.parameters()]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.9, 0.0)
        made_here.loss(probe.train(), (torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))).backward()
        assert {n for n, p in probe.named_parameters() if p.grad is not None} == {
            "linear.weight",
            "linear.bias",
        }

    def test_backbone_stays_in_evaluation_mode(self, monkeypatch, tmp_path, small, started):
        probe = made(monkeypatch, tmp_path, small, started["LN"]).model.train()
        assert probe.training and probe.linear.training
        assert not any(module.training for module in probe.backbone.modules())

    def test_arms_of_a_pair_have_equal_fingerprints(self, tmp_path, small, started):
        fingerprints = [
            fingerprint(probed(tmp_path / arm, small, started[arm], norm=norm)[1])
            for arm, norm in ARMS.items()
        ]
        assert fingerprints[0] == fingerprints[1]
        other = probed(tmp_path / "other", small, started["LN"], seed=1)[1]
        assert fingerprint(other)["weights"] != fingerprints[0]["weights"]

    def test_resume_is_bit_identical(self, tmp_path, small, started, monkeypatch):
        uninterrupted = probed(tmp_path / "uninterrupted", small, started["LN"])
        where = {"images": small, "needs": {"pretrained": started["LN"]}, "task": "train"}
        assert_resume_is_bit_identical(
            monkeypatch, probing, tmp_path / "resumed", TINY_PROBING, uninterrupted, **where
        )


class TestPretrainedWeights:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"norm": DYT}, "5 keys differ, the first: blocks.0.norm1.alpha is missing in it"),
            ({"depth": 1}, "12 keys differ, the first: blocks.1.norm1.weight is unknown"),
            ({"patch_size": 8}, "2 keys differ, the first: pos_embed is"),
        ],
    )
    def test_pretrained_weights_of_another_architecture_are_refused(
        self, tmp_path, small, started, changes, message
    ):
        with pytest.raises(ValueError, match=message):
            probed(tmp_path, small, started["LN"], **changes)

    def test_pretraining_without_a_teacher_is_refused(self, tmp_path, small):
        _, start = run(mae.pretrain, tmp_path / "mae", replace(TINY_MAE, epochs=1), images=small)
        with pytest.raises(ValueError, match=r"pretrained.pth has no 'teacher'; it has model"):
            probed(tmp_path / "run", small, start)

    def test_diverged_pretraining_gives_a_diverged_outcome(self, tmp_path, small):
        (tmp_path / "result.json").write_text(json.dumps({"outcome": "diverged"}))
        assert probed(tmp_path / "run", small, tmp_path)[0] == PRETRAINING_DIVERGED

    def test_dyt_is_loaded_with_its_alphas(self, started):
        config = replace(TINY_PROBING, norm=DYT)
        probe, paths, inherited = probing.build(config, started["DyT"], 10)
        assert len(paths) == 5 and paths[0] == "backbone.blocks.0.norm1"
        assert {*inherited} == {f"backbone.{name}" for name in probe.backbone.state_dict()}
        expected = pretrained.read(started["DyT"] / "pretrained.pth", "teacher")
        assert_same(weights(probe.backbone), expected)
