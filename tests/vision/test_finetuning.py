"""Fine-tuning: pretrained weights, the new head, layer-wise learning rates, few labels."""

import json
from dataclasses import replace

import pytest
import torch

from dyt_vision import dino, finetuning, image_data, mae
from dyt_vision import weights as pretrained
from dyt_vision.normfree import NormFree
from matched.training import reseed, weights_digest

from .tiny import (
    ARMS,
    DYT,
    TINY_DINO,
    TINY_MAE,
    TINY_TUNING,
    assert_resume_is_bit_identical,
    assert_same,
    fingerprint,
    learner,
    run,
    weights,
)

NEW = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")


@pytest.fixture(scope="module")
def started(small, tmp_path_factory):
    """Return the directories of pretraining runs: MAE's two arms, and DINO's."""
    runs = {
        "LN": (mae.pretrain, TINY_MAE),
        "DyT": (mae.pretrain, replace(TINY_MAE, norm=DYT)),
        "DINO": (dino.pretrain, TINY_DINO),
    }
    folder = tmp_path_factory.mktemp("pretraining")
    return {
        name: run(task, folder / name, config, images=small)[1]
        for name, (task, config) in runs.items()
    }


def tuned(directory, small, start=None, **changes):
    needs = {} if start is None else {"pretrained": start}
    config = replace(TINY_TUNING, **changes)
    return run(finetuning.train, directory, config, images=small, needs=needs)


def made(monkeypatch, directory, small, start=None, **changes):
    """Return the learner of a run."""
    needs = {} if start is None else {"pretrained": start}
    where = {"data": {"imagenet": small}, "needs": needs}
    config = replace(TINY_TUNING, **changes)
    return learner(monkeypatch, directory, config, finetuning, **where)


class TestPretrainedWeights:
    @pytest.mark.parametrize("start", ["LN", "DINO"])
    def test_encoder_has_the_pretrained_weights(self, monkeypatch, tmp_path, small, started, start):
        content = torch.load(started[start] / "pretrained.pth", weights_only=True)
        if start == "LN":
            expected = content["model"]
        else:
            teacher = content["teacher"].items()
            expected = {n.removeprefix("backbone."): t for n, t in teacher if "backbone." in n}
        actual = weights(made(monkeypatch, tmp_path, small, started[start]).model)
        for name, tensor in actual.items():
            if name not in NEW:
                assert torch.equal(tensor, expected[name]), name
        assert set(NEW) == set(actual) - set(expected)

    def test_head_and_last_norm_are_newly_initialized(self, monkeypatch, tmp_path, small, started):
        for start in (None, started["LN"]):
            model = made(monkeypatch, tmp_path, small, start).model
            assert (model.fc_norm.weight == 1).all() and not model.fc_norm.bias.any()
            assert not model.head.bias.any()
            assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.02)
            assert model.head.weight.shape == (1000, 32)

    def test_head_depends_on_the_seed_alone(self):
        arguments = {**dict(TINY_TUNING.model_args), "depth": 1}
        config = replace(TINY_TUNING, seed=7, model_args=tuple(arguments.items()))
        reseed(7, "weights", "head")
        expected = torch.nn.init.trunc_normal_(torch.empty(10, 32), std=2e-5)
        assert torch.equal(finetuning.build(config, 10)[0].head.weight, expected)

    def test_dyt_starts_from_the_pretrained_alphas(self, monkeypatch, tmp_path, small, started):
        content = torch.load(started["DyT"] / "pretrained.pth", weights_only=True)["model"]
        model = made(monkeypatch, tmp_path, small, started["DyT"], norm=DYT).model
        alpha = model.blocks[1].norm2.alpha
        assert torch.equal(alpha, content["blocks.1.norm2.alpha"]) and alpha.item() != 0.5
        assert model.fc_norm.alpha.tolist() == [0.5]

    def test_trains_from_scratch_without_a_pretraining(self, monkeypatch, tmp_path, small):
        made_here = made(monkeypatch, tmp_path, small)
        assert made_here.inherited == ()
        assert_same(weights(made_here.model), weights(finetuning.build(TINY_TUNING, 1000)[0]))
        outcome, _ = tuned(tmp_path, small)
        assert (outcome.steps, outcome.metrics.keys()) == (4, {"top1", "top5", "loss"})

    def test_pretrained_weights_of_another_architecture_are_refused(self, tmp_path, small, started):
        message = "the pretrained network is of another architecture than VisionTransformer: 4 keys"
        with pytest.raises(ValueError, match=message):
            tuned(tmp_path, small, started["LN"], norm=DYT)

    def test_diverged_pretraining_gives_a_diverged_outcome(self, tmp_path, small):
        need = tmp_path / "need"
        need.mkdir()
        (need / "result.json").write_text(json.dumps({"outcome": "diverged"}))
        outcome, directory = tuned(tmp_path / "run", small, need)
        assert (outcome.diverged, outcome.steps, dict(outcome.metrics)) == (True, 0, {})
        assert outcome.details == {"reason": "the pretraining diverged"}
        assert not list(directory.iterdir())


class TestFingerprint:
    def test_arms_have_equal_fingerprints_despite_different_pretrained_weights(
        self, tmp_path, small, started
    ):
        own, dyt = (pretrained.read_exported(started[arm]) for arm in ARMS)
        assert not torch.equal(own["blocks.0.attn.qkv.weight"], dyt["blocks.0.attn.qkv.weight"])
        fingerprints = [
            fingerprint(tuned(tmp_path / arm, small, started[arm], norm=norm)[1])
            for arm, norm in ARMS.items()
        ]
        assert fingerprints[0] == fingerprints[1]

    def test_fingerprint_covers_only_newly_initialized_weights(
        self, monkeypatch, tmp_path, small, started
    ):
        made_here = made(monkeypatch, tmp_path, small, started["LN"])
        names = weights(made_here.model).keys()
        assert set(made_here.inherited) == names - set(NEW)

        def digest():
            return weights_digest(made_here.model, made_here.norms, made_here.inherited)

        before = digest()
        made_here.model.blocks[0].attn.qkv.weight.data.add_(1)
        assert digest() == before
        made_here.model.head.weight.data.add_(1)
        assert digest() != before

    def test_resume_is_bit_identical(self, tmp_path, small, started, monkeypatch):
        where = {"images": small, "needs": {"pretrained": started["LN"]}}
        uninterrupted = run(finetuning.train, tmp_path / "uninterrupted", TINY_TUNING, **where)
        assert_resume_is_bit_identical(
            monkeypatch,
            finetuning,
            tmp_path / "resumed",
            TINY_TUNING,
            uninterrupted,
            task="train",
            **where,
        )


class TestLayerwiseOptimizer:
    def rates(self, config):
        """Return (learning rate, weight decay) of every parameter by name, and the model."""
        model, _ = finetuning.build(config, 10)
        names = {id(p): name for name, p in model.named_parameters()}
        param_groups = finetuning.layerwise_optimizer(model, config).param_groups
        rates = {
            names[id(p)]: (g["lr"], g["weight_decay"]) for g in param_groups for p in g["params"]
        }
        assert rates.keys() == set(names.values())
        return rates, model

    def layer(self, name, depth):
        """Return the number of layers from a parameter's layer to the head."""
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
            return depth + 1
        if name.startswith("blocks."):
            return depth - int(name.split(".")[1])
        assert name.split(".")[0] in ("fc_norm", "head")
        return 0

    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    def test_learning_rate_decays_from_layer_to_layer(self, norm):
        config = replace(TINY_TUNING, norm=norm, lr=0.01, layer_decay=0.75, weight_decay=0.05)
        rates, model = self.rates(config)
        for name, parameter in model.named_parameters():
            free = parameter.ndim == 1 or name in ("cls_token", "pos_embed")
            rate = 0.01 * 0.75 ** self.layer(name, depth=2)
            assert rates[name] == (pytest.approx(rate), 0.0 if free else 0.05), name
        if norm == DYT:
            assert rates["blocks.0.norm1.alpha"] == (pytest.approx(0.01 * 0.75**2), 0.0)
            assert rates["fc_norm.alpha"] == (0.01, 0.0)

    def test_learning_rates_at_full_depth(self):
        name = "vit_base_patch16_224"
        config = replace(TINY_TUNING, model=name, model_args=(("global_pool", "avg"),))
        with torch.device("meta"):
            rates, _ = self.rates(replace(config, lr=1.0, layer_decay=0.65))
        assert rates["patch_embed.proj.weight"][0] == pytest.approx(0.65**13)
        assert rates["blocks.0.attn.qkv.weight"][0] == pytest.approx(0.65**12)
        assert rates["blocks.11.attn.qkv.weight"][0] == pytest.approx(0.65)
        assert rates["head.weight"][0] == 1.0

    def test_layer_decay_1_gives_equal_learning_rates(self):
        rates, _ = self.rates(replace(TINY_TUNING, layer_decay=1.0))
        assert {rate for rate, _ in rates.values()} == {TINY_TUNING.lr}

    def test_train_uses_the_layerwise_optimizer(self, monkeypatch, tmp_path, small):
        adamw = made(monkeypatch, tmp_path, small, betas=(0.9, 0.95)).optimizer
        assert len({group["lr"] for group in adamw.param_groups}) == 4
        assert {group["betas"] for group in adamw.param_groups} == {(0.9, 0.95)}


class Labels:
    """A data set of labels only."""

    def __init__(self, targets):
        self.targets = targets

    def __getitem__(self, index):
        return index

    def __len__(self):
        return len(self.targets)


class TestFirstOfEachClass:
    LABELS = Labels([1, 0, 1, 1, 0, 2, 2, 0, 2, 2])

    def test_first_of_each_class_keeps_the_first_images(self):
        chosen = image_data.first_of_each_class(self.LABELS, 2)
        assert [chosen[i] for i in range(len(chosen))] == [0, 1, 2, 4, 5, 6]

    def test_first_of_each_class_can_use_a_whole_class(self):
        assert len(image_data.first_of_each_class(self.LABELS, 3)) == 9

    def test_first_of_each_class_refuses_too_small_classes(self):
        with pytest.raises(ValueError, match="labels_per_class is 4, but class 0 has 3 images"):
            image_data.first_of_each_class(self.LABELS, 4)

    def test_labels_per_class_limits_the_training_set(self, monkeypatch, tmp_path, small):
        dataset = made(monkeypatch, tmp_path, small, labels_per_class=3).dataset
        assert [label for _, label in (dataset[i] for i in range(6))] == [0, 0, 0, 1, 1, 1]
        assert dataset.indices == [0, 1, 2, 8, 9, 10]
        with pytest.raises(ValueError, match="labels_per_class is 9, but class 0 has 8 images"):
            tuned(tmp_path, small, labels_per_class=9)


@pytest.mark.parametrize("method", ["fixup", "skipinit", "sigma_reparam"])
class TestNormFree:
    def test_norm_free_classifier_has_finite_gradients(self, method):
        model, paths = finetuning.build(replace(TINY_TUNING, norm=NormFree(method=method)), 10)
        assert {"fc_norm", "blocks.0.norm1", "blocks.1.norm2"} <= set(paths)
        largest = torch.linalg.matrix_norm(model.head.weight, 2).item()
        if method == "fixup":
            assert largest == 0
        elif method == "skipinit":
            assert 0 < largest < 20 * 2e-5
        else:  # σReparam sets the spectral norm of every matrix to 1
            assert largest == pytest.approx(1, rel=0.1)
        logits = model(torch.randn(4, 3, 16, 16))
        assert logits.shape == (4, 10)
        torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert not [name for name, g in gradients.items() if g is None or not g.isfinite().all()]
        assert any(gradient.any() for gradient in gradients.values())

    def test_norm_free_pretraining_can_be_fine_tuned(self, tmp_path, small, method):
        norm = NormFree(method=method)
        _, start = run(
            mae.pretrain, tmp_path / "mae", replace(TINY_MAE, norm=norm, epochs=1), images=small
        )
        outcome, _ = tuned(tmp_path / "run", small, start, norm=norm, epochs=1)
        assert (outcome.steps, outcome.diverged) == (2, False)
