"""Table 1's recipe at paper scale, tiny configs of all tasks, and helpers that run them."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

from dyt import Norm
from dyt_vision import image_data, supervised
from dyt_vision.config import DINO, MAE, FineTuning, Probing
from dyt_vision.transforms import evaluation_transform
from matched import projects, recipes
from matched.task import Context
from matched.training import checkpoint

ROOT = Path(__file__).parents[2]
OWN, DYT = Norm.own(), Norm.dyt(alpha0=0.5)
ARMS = {"LN": OWN, "DyT": DYT}


def runs_of_table1(scale):
    """The runs of CVPR's Table 1 at one scale."""
    with mock.patch.dict(os.environ, MATCHED_ROOT=str(ROOT)):
        for cached in (projects.root, recipes.paper_numbers, recipes.available):
            cached.cache_clear()  # they may hold another test's project
        recipe = recipes.load("table1")
    return recipe.scale(scale).runs


SMOKE = runs_of_table1("smoke")
PAPER = {row: run.config for row, run in runs_of_table1("paper").items()}

# The earlier paper's Mixer-B: the same recipe with gradient clipping.
MIXER_B = replace(PAPER["vit_b"], model="mixer_b16_224", model_args=(), clip_norm=1.0)

TINY_VIT = replace(
    SMOKE["vit_b"].config,
    model_args=(
        ("global_pool", "avg"),
        ("img_size", 16),
        ("patch_size", 4),
        ("embed_dim", 32),
        ("depth", 2),
        ("num_heads", 2),
    ),
    epochs=1,
    warmup_epochs=0.5,
    batch=64,
    micro_batch=64,
    mixup=0.8,
    cutmix=1.0,
    erasing=0.25,
    flip=0.5,
    rand_augment="rand-m9-mstd0.5-inc1",
    drop_path=0.1,
    log_steps=5,
)
TINY_CONVNEXT = replace(
    SMOKE["convnext_b"].config,
    model_args=(
        ("ls_init_value", 1e-6),
        ("patch_size", 2),
        ("output_stride", 8),
        ("depths", (1, 1, 2, 1)),
        ("dims", (8, 16, 16, 16)),
    ),
)
TINY_MIXER = replace(
    TINY_VIT,
    model=MIXER_B.model,
    clip_norm=MIXER_B.clip_norm,
    image_size=32,
    # timm fixes depth, width and patch size of a named Mixer, so shrink the image and the MLPs.
    model_args=(("img_size", 32), ("mlp_ratio", (0.1, 0.1))),
)
TINY = {"ViT": TINY_VIT, "ConvNeXt": TINY_CONVNEXT, "Mixer": TINY_MIXER}


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    return Context(directory=directory, signature="abcdef012345", **changes)


def loaded(config, folder=None):
    """Return the training and held-out images of a supervised run."""
    where = Context(directory=Path(), signature="", data={"imagenet": folder})
    return supervised.load_data(where, config)


def held_out_images(config, folder):
    """Return the held-out images of a run, with the evaluation transform."""
    transform = evaluation_transform(config)
    return image_data.load(config, folder, train=transform, held_out=transform).held_out


def train(directory, config, **where):
    """Return the outcome and the fingerprint of ``supervised.train``."""
    outcome = supervised.train(context(directory, **where), config)
    return outcome, json.loads((directory / "fingerprint.json").read_text())


def learner(monkeypatch, directory, config, module=supervised, **where):
    """Return the learner that a module's ``train`` passes to the training loop."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", lambda context, config, learner, device: learner)
        return module.train(context(directory, **where), config)


# Tiny configs of MAE, DINO, fine-tuning and probing, for the images of the fixture ``small``.
SHORT = {"data": "imagenet", "epochs": 2, "batch": 8, "micro_batch": 4, "lr": 1e-2, "log_steps": 1}
SIZE = {"image_size": 16, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}
TINY_MAE = MAE(**SHORT, **SIZE, decoder_width=16, decoder_depth=1, decoder_heads=2, eval_batch=3)
TINY_DINO = DINO(
    **SHORT,
    **SIZE,
    local_crops=2,
    local_size=8,
    outputs=24,
    head_width=32,
    bottleneck=16,
    freeze_last_layer=1,
    warmup_teacher_temperature_epochs=2,
    neighbours=3,
    eval_batch=3,
)
TINY_TUNING = FineTuning(
    **SHORT,
    image_size=16,
    model="vit_base_patch16_224",
    model_args=TINY_VIT.model_args,
    rand_augment="",
    eval_batch=3,
)
TINY_PROBING = Probing(**SHORT, **SIZE, eval_batch=3)


def run(task, directory, config, **where):
    """Run a task on the image folder ``images``; return the outcome and the run directory."""
    where["data"] = {"imagenet": where.pop("images")}
    return task(context(directory, **where), config), directory


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def weights(model):
    """Return copies of all tensors of a model by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    """Assert that two dicts of tensors are bit-identical."""
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


class Interruption(Exception):
    """Represents anything that ends a process in the middle of a run."""


def assert_resume_is_bit_identical(
    monkeypatch, module, directory, config, uninterrupted, *, task="pretrain", **where
):
    """Interrupt a run in its third step, resume it, and compare it with an uninterrupted run.

    All tensors of the resuming process are changed before the checkpoint of the second step is
    read, so that the comparison fails if the checkpoint does not restore one of them.

    Args:
        uninterrupted: (outcome, directory) of the other run.
    """
    fit = module.fit
    calls = []

    def fit_interrupted(context, config, learner, device):
        def loss(model, batch):
            calls.append(batch)
            if len(calls) == 6:  # two micro-batches a step
                raise Interruption
            return learner.loss(model, batch)

        return fit(context, config, replace(learner, loss=loss), device)

    def fit_with_changed_tensors(context, config, learner, device):
        with torch.no_grad():
            for tensor in learner.model.state_dict().values():
                tensor.add_(1)
        return fit(context, config, learner, device)

    start = partial(run, getattr(module, task), directory, config, checkpoint_steps=2, **where)
    monkeypatch.setattr(module, "fit", fit_interrupted)
    with pytest.raises(Interruption):
        start()
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step_00000002.pt"]
    monkeypatch.setattr(module, "fit", fit_with_changed_tensors)
    outcome, _ = start()
    expected_outcome, expected = uninterrupted
    assert outcome == expected_outcome
    assert lines(directory) == lines(expected)
    assert fingerprint(directory) == fingerprint(expected)
    last = Path("checkpoints") / "step_00000004.pt"
    assert_same(checkpoint.read(directory / last).tensors, checkpoint.read(expected / last).tensors)
    for file in expected.glob("*.p*"):  # pictures and weights
        assert (directory / file.name).read_bytes() == file.read_bytes(), file.name
