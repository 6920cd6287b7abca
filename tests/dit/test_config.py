"""Configs of the diffusion runs: defaults, and refused values."""

from dataclasses import replace

import pytest

from dyt_dit import config as configs
from dyt_dit.config import Encoding, Network, Reference, Sampling, Scoring, Training

from ..config_checks import assert_checks_counts, assert_checks_fractions, defaults_of, refusal

NETWORK = Network(patch_size=2, width=32, depth=1, heads=4)
ENCODING = Encoding(data=("digits",))
TRAINING = Training(network=NETWORK, epochs=1, batch=8, micro_batch=8, lr=1e-3)
SAMPLING = Sampling(network=NETWORK)
REFERENCE = Reference(data=("digits",))
SCORING = Scoring()

DEFAULTS = {
    "Network": {"input_size": 32, "channels": 4, "classes": 1000},
    "Encoding": {
        "autoencoder": "kl",
        "image_size": 256,
        "flip": True,
        "batch": 32,
        "images_per_file": 2048,
    },
    "Training": {
        "zero_init": True,
        "data": (),
        "class_dropout": 0.1,
        "diffusion_steps": 1000,
        "flip": 0.5,
        "held_out": 10000,
        "eval_batch": 128,
    },
    "ReleasedWeights": {"data": "dit-xl2-weights"},
    "Sampling": {
        "seed": 0,
        "data": (),
        "autoencoder": "kl",
        "diffusion_steps": 1000,
        "steps": 250,
        "cfg_scale": 1.0,
        "count": 50000,
        "batch": 32,
        "precision": "tf32",
    },
    "DigitsClassifier": {"data": ("digits",), "hidden": (64, 32), "random_state": 0},
    "Reference": {
        "extractor": "inception",
        "image_size": 256,
        "kept": 10000,
        "batch": 64,
        "images_per_file": 2048,
    },
    "Scoring": {
        "data": (),
        "extractor": "inception",
        "neighbours": 3,
        "batch": 64,
        "images_per_file": 2048,
    },
}
"""Those of the DiT paper and its release, and of ADM's evaluation suite."""


def test_defaults_of_diffusion_configs():
    assert {name: found for name, found in defaults_of(configs).items() if found} == DEFAULTS
    assert str(TRAINING.norm) == str(SAMPLING.norm) == str(configs.Norm.own())


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (NETWORK, "input_size channels classes patch_size width depth heads"),
        (ENCODING, "image_size batch images_per_file"),
        (TRAINING, "diffusion_steps held_out eval_batch"),
        (SAMPLING, "diffusion_steps steps count batch"),
        (REFERENCE, "image_size kept batch images_per_file"),
        (SCORING, "neighbours batch images_per_file"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_diffusion_configs_require_counts(config, names):
    assert_checks_counts(config, *names.split())


def test_diffusion_configs_require_fractions():
    assert_checks_fractions(TRAINING, "class_dropout", "flip")


KINDS = "autoencoder is 'vae'; expected 'kl' or 'pixels'"
EXTRACTORS = "extractor is 'clip'; expected 'inception' or 'digits'"
NORM = "norm is 'dyt'; expected a dyt.Norm, such as Norm.dyt()"
POSITIONS = "and of 4, as 2-D sine-cosine positions need"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (NETWORK, {"width": 30}, f"width 30 is not a multiple of heads (4) {POSITIONS}"),
        (NETWORK, {"width": 6, "heads": 3}, f"width 6 is not a multiple of heads (3) {POSITIONS}"),
        (
            NETWORK,
            {"width": 32, "heads": 3},
            f"width 32 is not a multiple of heads (3) {POSITIONS}",
        ),
        (
            NETWORK,
            {"patch_size": 3},
            "patch_size 3 does not divide input_size 32: 2 would be left over",
        ),
        (ENCODING, {"autoencoder": "vae"}, KINDS),
        (TRAINING, {"norm": "dyt"}, NORM),
        (SAMPLING, {"norm": "dyt"}, NORM),
        (SAMPLING, {"autoencoder": "vae"}, KINDS),
        (SAMPLING, {"precision": "bf16"}, "precision is 'bf16'; expected 'fp32' or 'tf32'"),
        (
            SAMPLING,
            {"steps": 251, "diffusion_steps": 250},
            "steps is 251; the diffusion has 250 (diffusion_steps)",
        ),
        (SAMPLING, {"cfg_scale": 0.99}, "cfg_scale is 0.99; expected 1 (no guidance) or more"),
        (
            SAMPLING,
            {"cfg_scale": float("nan")},
            "cfg_scale is nan; expected 1 (no guidance) or more",
        ),
        (REFERENCE, {"extractor": "clip"}, EXTRACTORS),
        (SCORING, {"extractor": "clip"}, EXTRACTORS),
    ],
)
def test_diffusion_configs_refuse(config, changes, message):
    assert refusal(config, **changes) == message


def test_training_config_checks_the_settings_of_every_training():
    assert refusal(TRAINING, lr=0.0).startswith("lr 0.0")


def test_diffusion_configs_accept_boundary_values():
    replace(SAMPLING, steps=1000, cfg_scale=1)
    replace(TRAINING, class_dropout=0, flip=1)
