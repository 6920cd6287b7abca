"""The recipe of Table 1 at paper scale, and shrunk until two CPU cores train it in a blink."""

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from dyt import Norm
from dyt_vision import supervised
from dyt_vision.config import DINO, MAE, FineTuning, Probing
from matched.task import Context
from matched.training import checkpoint

OWN, DYT = Norm.own(), Norm.dyt(alpha0=0.5)
ARMS = {"LN": OWN, "DyT": DYT}


def recipe(path):
    """A recipe's module, by its path below recipes/."""
    file = Path(__file__).parents[2] / "recipes" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE1 = recipe("cvpr2025/table01.py")
PAPER = {row: run.config for row, run in TABLE1.PAPER.runs.items()}

# The earlier paper's Mixer-B: the same recipe, but for clipped gradients.
MIXER_B = replace(PAPER["vit_b"], model="mixer_b16_224", model_args=(), clip_norm=1.0)

TINY_VIT = replace(
    TABLE1.SMOKE.runs["vit_b"].config,
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
    TABLE1.SMOKE.runs["convnext_b"].config,
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
    # timm fixes depth, width and patches of a named Mixer: four patches and thin MLPs it is.
    model_args=(("img_size", 32), ("mlp_ratio", (0.1, 0.1))),
)
TINY = {"ViT": TINY_VIT, "ConvNeXt": TINY_CONVNEXT, "Mixer": TINY_MIXER}


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    return Context(directory=directory, signature="abcdef012345", **changes)


def loaded(config, folder=None):
    """The images that a supervised run trains on and is evaluated by."""
    where = Context(directory=Path(), signature="", data={"imagenet": folder})
    return supervised.load(where, config)


def train(directory, config, **where):
    """The outcome of ``supervised.train``, and the fingerprint that it left."""
    outcome = supervised.train(context(directory, **where), config)
    return outcome, json.loads((directory / "fingerprint.json").read_text())


def learner(monkeypatch, directory, config, module=supervised, **where):
    """The learner that a module's ``train`` hands to the training loop."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", lambda context, config, learner, device: learner)
        return module.train(context(directory, **where), config)


# What MAE, DINO and what starts from them train in a blink, on the pictures of ``small``.
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
    """Outcome and directory of a run on the pictures of ``small``, whose folder is ``images``."""
    where["data"] = {"imagenet": where.pop("images")}
    return task(context(directory, **where), config), directory


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def weights(model):
    """Names and copies of all tensors of a model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    """Two dicts of tensors that are equal to the last bit."""
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


class Cut(Exception):
    """Stands for whatever ends a process in the middle of a run."""


def cut_and_resumed(monkeypatch, module, directory, config, whole, *, task="pretrain", **where):
    """Cut a run in its third step, go on, and compare what it leaves with a whole run's.

    Whatever the checkpoint of the second step does not restore shows: all tensors of the new
    process are other ones before it is read.
    """
    fit = module.fit
    calls = []

    def cut(context, config, learner, device):
        def loss(model, batch):
            calls.append(batch)
            if len(calls) == 6:  # two micro-batches a step
                raise Cut
            return learner.loss(model, batch)

        return fit(context, config, replace(learner, loss=loss), device)

    def disturbed(context, config, learner, device):
        with torch.no_grad():
            for tensor in learner.model.state_dict().values():
                tensor.add_(1)
        return fit(context, config, learner, device)

    again = partial(run, getattr(module, task), directory, config, checkpoint_steps=2, **where)
    monkeypatch.setattr(module, "fit", cut)
    with pytest.raises(Cut):
        again()
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step_00000002.pt"]
    monkeypatch.setattr(module, "fit", disturbed)
    outcome, _ = again()
    there, undisturbed = whole[1], whole[0]
    assert outcome == undisturbed
    assert lines(directory) == lines(there)
    assert fingerprint(directory) == fingerprint(there)
    last = Path("checkpoints") / "step_00000004.pt"
    assert_same(checkpoint.read(directory / last).tensors, checkpoint.read(there / last).tensors)
    for file in there.glob("*.p*"):  # pictures and weights
        assert (directory / file.name).read_bytes() == file.read_bytes(), file.name
