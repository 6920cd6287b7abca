"""Parameter names and shapes at full size, compared with the official releases of MAE and DINO.

The expected names are written out here by rule, in the order in which the releases register them.
"""

from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_vision import dino, finetuning, mae
from dyt_vision.config import DINO, MAE, FineTuning

RUN = {"data": "imagenet", "epochs": 1, "batch": 8, "micro_batch": 8, "lr": 1e-3}
LARGE = {"width": 1024, "depth": 24, "heads": 16}
DYT = Norm.dyt()


def linear(name, inputs, outputs):
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def norm(name, width):
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def embedding(width, patch=16):
    return [
        ("patch_embed.proj.weight", (width, 3, patch, patch)),
        ("patch_embed.proj.bias", (width,)),
    ]


def blocks(name, depth, width):
    names = []
    for i in range(depth):
        names += norm(f"{name}.{i}.norm1", width)
        names += linear(f"{name}.{i}.attn.qkv", width, 3 * width)
        names += linear(f"{name}.{i}.attn.proj", width, width)
        names += norm(f"{name}.{i}.norm2", width)
        names += linear(f"{name}.{i}.mlp.fc1", width, 4 * width)
        names += linear(f"{name}.{i}.mlp.fc2", 4 * width, width)
    return names


def autoencoder(width, depth):
    return [
        ("cls_token", (1, 1, width)),
        ("pos_embed", (1, 197, width)),
        ("mask_token", (1, 1, 512)),
        ("decoder_pos_embed", (1, 197, 512)),
        *embedding(width),
        *blocks("blocks", depth, width),
        *norm("norm", width),
        *linear("decoder_embed", width, 512),
        *blocks("decoder_blocks", 8, 512),
        *norm("decoder_norm", 512),
        *linear("decoder_pred", 512, 768),
    ]


def classifier(width, depth):
    return [
        ("cls_token", (1, 1, width)),
        ("pos_embed", (1, 197, width)),
        *embedding(width),
        *blocks("blocks", depth, width),
        *norm("fc_norm", width),
        *linear("head", width, 1000),
    ]


def student(patch, tokens):
    backbone = [
        ("cls_token", (1, 1, 768)),
        ("pos_embed", (1, tokens, 768)),
        *embedding(768, patch),
        *blocks("blocks", 12, 768),
        *norm("norm", 768),
    ]
    head = [
        *linear("mlp.0", 768, 2048),
        *linear("mlp.2", 2048, 2048),
        *linear("mlp.4", 2048, 256),
        ("last_layer.weight_g", (65536, 1)),
        ("last_layer.weight_v", (65536, 256)),
    ]
    return [(f"backbone.{n}", s) for n, s in backbone] + [(f"head.{n}", s) for n, s in head]


def on_meta(build, config, *classes):
    """Build a network on the meta device: shapes without values."""
    with torch.device("meta"):
        return build(config, *classes)


def shapes(model):
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def with_alpha(names, norms):
    """Return the names with DyT: alpha before weight and bias in each norm."""
    result = []
    for name, shape in names:
        path, _, last = name.rpartition(".")
        if path in norms and last == "weight":
            result.append((f"{path}.alpha", (1,)))
        result.append((name, shape))
    return result


CASES = {
    "MAE-B": (mae, MAE(**RUN), autoencoder(768, 12), 111_907_840, {768: 25, 512: 17}),
    "MAE-L": (mae, MAE(**RUN, **LARGE), autoencoder(1024, 24), 329_541_888, {1024: 49, 512: 17}),
    "ViT-B": (
        finetuning,
        FineTuning(**RUN, model="vit_base_patch16_224", model_args=(("global_pool", "avg"),)),
        classifier(768, 12),
        86_567_656,
        {768: 25},
    ),
    "ViT-L": (
        finetuning,
        FineTuning(**RUN, model="vit_large_patch16_224", model_args=(("global_pool", "avg"),)),
        classifier(1024, 24),
        304_326_632,
        {1024: 49},
    ),
    "DINO-B/16": (dino, DINO(**RUN), student(16, 197), 108_937_216, {768: 25}),
    "DINO-B/8": (dino, DINO(**RUN, patch_size=8), student(8, 785), 108_946_432, {768: 25}),
}
KEYS = {  # number of keys with LN and with DyT
    "MAE-B": (254, 296),
    "MAE-L": (398, 464),
    "ViT-B": (152, 177),
    "ViT-L": (296, 345),
    "DINO-B/16": (158, 183),
    "DINO-B/8": (158, 183),
}


def built(task, config, norm=None):
    """Return the network that corresponds to the release's, and its norm layers' paths."""
    config = config if norm is None else replace(config, norm=norm)
    if task is finetuning:
        return on_meta(task.build, config, 1000)
    model, paths = on_meta(task.build, config)
    if task is dino:
        students = [path.removeprefix("student.") for path in paths if path.startswith("student.")]
        assert [*paths] == [f"{n}.{p}" for n in ("student", "teacher") for p in students]
        return model.student, students
    return model, paths


@pytest.mark.parametrize(("task", "config", "names", "total", "norms"), CASES.values(), ids=CASES)
class TestFullSize:
    def test_names_and_shapes_match_the_releases(self, task, config, names, total, norms):
        model, paths = built(task, config)
        if task is finetuning:  # timm registers the norm before the head, the release after it
            assert sorted(shapes(model)) == sorted(names)
        else:
            assert shapes(model) == names
        assert count(model) == total
        assert len(paths) == sum(norms.values())
        widths = [model.get_submodule(path).weight.numel() for path in paths]
        assert {width: widths.count(width) for width in widths} == norms

    def test_dyt_adds_only_an_alpha_to_each_norm(self, task, config, names, total, norms):
        model, paths = built(task, config, DYT)
        actual = shapes(model)
        assert sorted(actual) == sorted(with_alpha(names, paths))
        assert count(model) == total + sum(norms.values())


@pytest.mark.parametrize("case", CASES)
def test_number_of_state_dict_keys(case):
    task, config, *_ = CASES[case]
    own, dyt = (len(built(task, config, norm)[0].state_dict()) for norm in (None, DYT))
    assert (own, dyt) == KEYS[case]


@pytest.mark.parametrize("patch, total", [(16, 85_798_656), (8, 85_807_872)])
def test_dino_backbone_keys_and_parameter_count(patch, total):
    for norm, keys, extra in ((Norm.own(), 150, 0), (DYT, 175, 25)):
        model, _ = on_meta(dino.build, DINO(**RUN, patch_size=patch, norm=norm))
        for network in (model.student, model.teacher):
            assert len(network.backbone.state_dict()) == keys
            assert count(network.backbone) == total + extra


class TestUntrainedParameters:
    def untrained(self, model):
        return {name for name, p in model.named_parameters() if not p.requires_grad}

    def test_mae_does_not_train_positions(self):
        model, _ = on_meta(mae.build, MAE(**RUN))
        assert self.untrained(model) == {"pos_embed", "decoder_pos_embed"}

    @pytest.mark.parametrize("norm_last_layer", [True, False])
    def test_dino_does_not_train_teacher_and_weight_g(self, norm_last_layer):
        config = DINO(**RUN, norm_last_layer=norm_last_layer)
        model, _ = on_meta(dino.build, config)
        teachers = {f"teacher.{name}" for name, _ in model.teacher.named_parameters()}
        length = {"student.head.last_layer.weight_g"} if norm_last_layer else set()
        assert self.untrained(model) == teachers | length

    def test_fine_tuning_trains_everything(self):
        _, config, *_ = CASES["ViT-B"]
        assert not self.untrained(on_meta(finetuning.build, config, 1000)[0])
