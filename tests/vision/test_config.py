"""Settings out of range, refused by the configs with what is expected; models that do not exist."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dyt import DynamicTanh, Norm
from dyt_vision import config as configs
from dyt_vision import models
from dyt_vision.config import ReleasedWeights

from ..config_checks import assert_checks_counts, assert_checks_fractions, defaults_of, refusal
from .tiny import DYT, TINY_DINO, TINY_MAE, TINY_PROBING, TINY_TUNING, TINY_VIT

CASES = [
    # Vision
    (TINY_MAE, {"norm": "dyt"}, "norm is 'dyt'; expected a dyt.Norm, such as Norm.dyt()"),
    (TINY_MAE, {"image_size": 0}, "image_size is 0; expected a whole number of 1 or more"),
    (TINY_MAE, {"image_size": 16.0}, "image_size is 16.0; expected a whole number of 1 or more"),
    (TINY_MAE, {"eval_batch": 0}, "eval_batch is 0; expected a whole number of 1 or more"),
    (TINY_MAE, {"flip": 1.5}, "flip is 1.5; expected 0 to 1"),
    (TINY_MAE, {"crop_scale": (0.0, 1.0)}, "crop_scale is (0.0, 1.0); expected (least, most)"),
    (TINY_MAE, {"crop_scale": (0.5, 0.2)}, "both above 0 and at most 1"),
    (TINY_MAE, {"crop_scale": (0.5, 1.2)}, "crop_scale is (0.5, 1.2); expected (least, most)"),
    (TINY_MAE, {"crop_aspect": (0.0, 2.0)}, "crop_aspect is (0.0, 2.0); expected (least, most)"),
    (
        TINY_MAE,
        {"interpolation": "box"},
        "interpolation is 'box'; expected 'bicubic' or 'bilinear'",
    ),
    (TINY_MAE, {"eval_interpolation": ""}, "eval_interpolation is ''; expected 'bicubic' or"),
    # ViT
    (TINY_MAE, {"patch_size": 5}, "patch_size 5 does not divide image_size 16: 1 would be left"),
    (TINY_MAE, {"heads": 3}, "heads 3 does not divide width 32: 2 would be left over"),
    (TINY_DINO, {"depth": 0}, "depth is 0; expected a whole number of 1 or more"),
    (TINY_PROBING, {"heads": 5}, "heads 5 does not divide width 32"),
    # MAE
    (
        TINY_MAE,
        {"mask_ratio": 0.0},
        "mask_ratio is 0.0; expected a share between 0 and 1 that leaves",
    ),
    (TINY_MAE, {"mask_ratio": 1.0}, "mask_ratio is 1.0; expected a share between 0 and 1"),
    (TINY_MAE, {"mask_ratio": -0.5}, "mask_ratio is -0.5; expected a share"),
    (TINY_MAE, {"mask_ratio": math.nan}, "mask_ratio is nan; expected a share"),
    (TINY_MAE, {"mask_ratio": 0.95}, "leaves some of the 16 patches hidden and some visible"),
    (TINY_MAE, {"mask_ratio": 1e-18}, "mask_ratio is 1e-18; expected a share between 0 and 1"),
    (TINY_MAE, {"decoder_heads": 3}, "decoder_heads 3 does not divide decoder_width 16"),
    (TINY_MAE, {"decoder_width": 10}, "decoder_width is 10; expected a multiple of 4, which 2-D"),
    (
        TINY_MAE,
        {"width": 30},
        "width is 30; expected a multiple of 4, which 2-D sine-cosine positions require",
    ),
    (TINY_MAE, {"decoder_depth": 0}, "decoder_depth is 0; expected a whole number of 1 or more"),
    # DINO
    (TINY_DINO, {"local_size": 10}, "patch_size 4 does not divide local_size 10: 2 would be left"),
    (TINY_DINO, {"local_crops": -1}, "local_crops is -1; expected 0 or more"),
    (TINY_DINO, {"local_scale": (0.1, 2.0)}, "local_scale is (0.1, 2.0); expected (least, most)"),
    (TINY_DINO, {"blur": (1.0, 0.1)}, "blur is (1.0, 0.1); expected three probabilities, 0 to 1"),
    (TINY_DINO, {"blur": (1.0, 0.1, 2.0)}, "expected three probabilities, 0 to 1"),
    (TINY_DINO, {"solarize": -0.1}, "solarize is -0.1; expected 0 to 1"),
    (TINY_DINO, {"outputs": 0}, "outputs is 0; expected a whole number of 1 or more"),
    (TINY_DINO, {"bank": 0}, "bank is 0; expected a whole number of 1 or more"),
    (TINY_DINO, {"freeze_last_layer": 1.5}, "freeze_last_layer is 1.5; expected 0 or more"),
    (TINY_DINO, {"teacher_temperature": 0.0}, "teacher_temperature is 0.0; expected above 0"),
    (TINY_DINO, {"student_temperature": -1.0}, "student_temperature is -1.0; expected above 0"),
    (TINY_DINO, {"teacher_momentum": 1.1}, "teacher_momentum is 1.1; expected 0 to 1"),
    (TINY_DINO, {"center_momentum": -1}, "center_momentum is -1; expected 0 to 1"),
    (TINY_DINO, {"clip_each": 0.0}, "clip_each is 0.0; expected a positive number or None"),
    (TINY_DINO, {"drop_path": 1.0}, "drop_path is 1.0; expected 0 or more, below 1"),
    (TINY_DINO, {"final_weight_decay": -0.1}, "final_weight_decay is -0.1; expected 0 or more"),
    # Classifiers
    (TINY_TUNING, {"layer_decay": 0.0}, "layer_decay is 0.0; expected above 0, at most 1"),
    (TINY_TUNING, {"layer_decay": 1.1}, "layer_decay is 1.1; expected above 0, at most 1"),
    (
        TINY_TUNING,
        {"labels_per_class": 0},
        "labels_per_class is 0; expected a whole number of 1 or more",
    ),
    (TINY_TUNING, {"optimizer": "lamb"}, "optimizer is 'lamb'; expected 'adamw' or 'sgd'"),
    (TINY_TUNING, {"momentum": 1.0}, "momentum is 1.0; expected 0 or more, below 1"),
    (TINY_PROBING, {"blocks": 0}, "blocks is 0; expected a whole number of 1 or more"),
    (TINY_PROBING, {"blocks": 3}, "blocks is 3; expected at most depth (2)"),
    (TINY_PROBING, {"momentum": -0.1}, "momentum is -0.1; expected 0 or more, below 1"),
]


@pytest.mark.parametrize(
    "config, changes, message",
    CASES,
    ids=[f"{type(config).__name__}-{next(iter(changes.items()))}" for config, changes, _ in CASES],
)
def test_config_refuses_a_setting_out_of_range(config, changes, message):
    with pytest.raises(ValueError) as refusal:
        replace(config, **changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "config, changes",
    [
        (TINY_MAE, {"mask_ratio": 0.9375}),  # one visible patch
        (TINY_MAE, {"mask_ratio": 0.01}),  # one hidden patch
        (TINY_MAE, {"crop_scale": (1.0, 1.0)}),
        (TINY_DINO, {"local_crops": 0, "clip_each": None}),
        (TINY_DINO, {"blur": (0, 0, 0), "warmup_teacher_temperature_epochs": 0}),
        (TINY_TUNING, {"layer_decay": 1.0, "labels_per_class": 1}),
    ],
)
def test_config_accepts_boundary_values(config, changes):
    assert replace(config, **changes) != config


DEFAULTS = {
    "Vision": {
        "image_size": 224,
        "crop_scale": (0.08, 1.0),
        "crop_aspect": (0.75, 1.3333333333333333),
        "crop_ratio": 0.875,
        "interpolation": "bicubic",
        "eval_interpolation": "bicubic",
        "flip": 0.5,
        "eval_batch": 128,
    },
    "Supervised": {
        "model_args": (),
        "convert_batch_norm": False,
        "labels_per_class": None,
        "optimizer": "adamw",
        "momentum": 0.9,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "mixup": 0.8,
        "cutmix": 1.0,
        "mixup_prob": 1.0,
        "mixup_switch": 0.5,
        "erasing": 0.25,
        "label_smoothing": 0.1,
        "drop_path": 0.1,
    },
    "ReleasedWeights": {"data": "vit-b-weights", "model_args": (), "classes": 1000},
    "FineTuning": {"layer_decay": 0.75},
    "ViT": {"patch_size": 16, "width": 768, "depth": 12, "heads": 12},
    "MAE": {
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "mask_ratio": 0.75,
        "norm_pix": True,
    },
    "DINO": {
        "crop_scale": (0.25, 1.0),
        "local_crops": 10,
        "local_size": 96,
        "local_scale": (0.05, 0.25),
        "jitter": 0.8,
        "greyscale": 0.2,
        "blur": (1.0, 0.1, 0.5),
        "solarize": 0.2,
        "outputs": 65536,
        "head_width": 2048,
        "bottleneck": 256,
        "norm_last_layer": True,
        "freeze_last_layer": 3,
        "teacher_momentum": 0.996,
        "center_momentum": 0.9,
        "student_temperature": 0.1,
        "teacher_temperature": 0.07,
        "warmup_teacher_temperature": 0.04,
        "warmup_teacher_temperature_epochs": 50,
        "final_weight_decay": 0.4,
        "clip_each": 3.0,
        "drop_path": 0.1,
        "init_std": 0.02,
        "neighbours": 20,
        "bank": 50000,
    },
    "Probing": {"momentum": 0.9, "blocks": 1, "pool": True},
}
"""Those of the methods' papers and official releases."""


def test_defaults_of_vision_configs():
    assert {name: found for name, found in defaults_of(configs).items() if found} == DEFAULTS
    assert configs.Vision.__dataclass_fields__["norm"].default_factory() == Norm.own()


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TINY_VIT, "image_size eval_batch labels_per_class"),
        (ReleasedWeights(model="vit"), "classes"),
        (TINY_PROBING, "patch_size width depth heads blocks"),
        (TINY_MAE, "decoder_width decoder_depth decoder_heads"),
        (TINY_DINO, "local_size outputs head_width bottleneck neighbours bank"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_vision_configs_require_counts(config, names):
    assert_checks_counts(config, *names.split())


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TINY_VIT, "flip mixup_prob mixup_switch erasing label_smoothing"),
        (TINY_DINO, "jitter greyscale solarize teacher_momentum center_momentum"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_vision_configs_require_fractions(config, names):
    assert_checks_fractions(config, *names.split())


CROP = "expected (least, most), both above 0"
BELOW_1 = "expected 0 or more, below 1"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (TINY_VIT, {"crop_scale": (0.5, 1.2)}, f"crop_scale is (0.5, 1.2); {CROP} and at most 1"),
        (TINY_VIT, {"crop_aspect": (2.0, 1.0)}, f"crop_aspect is (2.0, 1.0); {CROP}"),
        (TINY_VIT, {"crop_ratio": 1.1}, "crop_ratio is 1.1; expected above 0, at most 1"),
        (TINY_VIT, {"momentum": 1}, f"momentum is 1; {BELOW_1}"),
        (TINY_VIT, {"drop_path": -0.1}, f"drop_path is -0.1; {BELOW_1}"),
        (TINY_VIT, {"mixup": math.nan}, "mixup nan, cutmix 1.0: expected 0 or more"),
        (TINY_VIT, {"cutmix": -1.0}, "mixup 0.8, cutmix -1.0: expected 0 or more"),
        (
            TINY_TUNING,
            {"optimizer": "sgd"},
            "optimizer is 'sgd'; fine-tuning supports only 'adamw'",
        ),
        (
            TINY_PROBING,
            {"ema_decay": 0.9},
            "ema_decay is 0.9; Probing does not support an EMA of the weights, leave it at None",
        ),
        (TINY_PROBING, {"momentum": 1}, f"momentum is 1; {BELOW_1}"),
        (TINY_DINO, {"freeze_last_layer": -1}, "freeze_last_layer is -1; expected 0 or more"),
        (TINY_DINO, {"local_crops": 1.5}, "local_crops is 1.5; expected 0 or more"),
        (
            TINY_DINO,
            {"warmup_teacher_temperature_epochs": -1},
            "warmup_teacher_temperature_epochs is -1; expected 0 or more",
        ),
        (
            TINY_DINO,
            {"warmup_teacher_temperature": 0.0},
            "warmup_teacher_temperature is 0.0; expected above 0",
        ),
        (TINY_DINO, {"init_std": 0.0}, "init_std is 0.0; expected above 0"),
        (TINY_DINO, {"local_scale": (0, 1)}, f"local_scale is (0, 1); {CROP} and at most 1"),
        (
            TINY_DINO,
            {"blur": (-0.1, 0, 0)},
            "blur is (-0.1, 0, 0); expected three probabilities, 0 to 1",
        ),
    ],
)
def test_vision_configs_refuse_with_the_whole_message(config, changes, message):
    assert refusal(config, **changes) == message


@pytest.mark.parametrize(
    "config",
    [TINY_VIT, TINY_MAE, TINY_DINO, TINY_TUNING, TINY_PROBING],
    ids=lambda c: type(c).__name__,
)
def test_vision_configs_check_the_settings_of_every_training(config):
    assert refusal(config, lr=0.0).startswith("lr 0.0")
    assert refusal(config, flip=2) == "flip is 2; expected 0 to 1"


def test_vision_configs_accept_the_limits_of_their_intervals():
    aspect = {"crop_aspect": (1e-9, 1e9), "crop_scale": (1e-9, 1.0), "crop_ratio": 1.0}
    replace(TINY_VIT, **aspect, flip=0, momentum=0, drop_path=0, mixup=0, cutmix=0)
    replace(TINY_DINO, final_weight_decay=0, drop_path=0, freeze_last_layer=0, blur=(1, 1, 1))
    replace(TINY_PROBING, blocks=TINY_PROBING.depth, momentum=0)


class TestModels:
    @pytest.mark.parametrize(
        "name, reason",
        [
            ("torchvision.models:resnet5", "has no attribute 'resnet5'"),
            ("torchvsion.models:resnet50", "No module named 'torchvsion'"),
        ],
    )
    def test_model_that_cannot_be_imported_is_refused(self, name, reason):
        with pytest.raises(ValueError) as refusal:
            models.build(replace(TINY_VIT, model=name, model_args=()), 10)
        message = str(refusal.value)
        assert message.startswith(f"model '{name}' cannot be imported (") and reason in message
        assert (
            "expected 'package.module:function', such as 'torchvision.models:resnet50'" in message
        )

    def test_convert_batch_norm_of_a_torchvision_model(self):
        config = replace(
            TINY_VIT,
            model="torchvision.models:resnet18",
            model_args=(),
            drop_path=0.0,
            norm=DYT,
            convert_batch_norm=True,
        )
        with torch.device("meta"):
            model, paths = models.build(config, 7)
        assert model.fc.out_features == 7
        assert len(paths) == 20 and "layer1.0.bn1" in paths
        assert all(isinstance(model.get_submodule(path), DynamicTanh) for path in paths)
        assert not [m for m in model.modules() if isinstance(m, _BatchNorm)]


HEAVY = ("torch", "numpy", "timm", "torchvision", "PIL", "sklearn")


@pytest.mark.parametrize("module", ["dyt_vision.config", "dyt_vision.sources"])
def test_config_and_sources_import_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
