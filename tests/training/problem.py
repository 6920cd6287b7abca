"""A problem small enough to train in a blink that still draws from every kind of randomness."""

import json
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import Dataset

from dyt import Norm, convert
from matched import TrainConfig, signals
from matched.task import Context
from matched.training import Learner, checkpoint, fit, reseed

CPU = torch.device("cpu")
FEATURES, SAMPLES = 6, 26
SIGNATURE = "abcdef012345"
OWN, DYT = Norm.own(), Norm.dyt()

# 3 steps of 8 samples an epoch (2 samples are left over), 12 steps, 2 micro-batches a step.
CONFIG = TrainConfig(
    seed=3,
    epochs=4,
    batch=8,
    micro_batch=4,
    lr=0.05,
    min_lr=0.001,
    warmup_epochs=1,
    clip_norm=1.0,
    ema_decay=0.9,
    log_steps=2,
)


class Cut(Exception):
    """Stands for whatever ends a process in the middle of a run."""


class Points(Dataset):
    """Points with noise of torch's, NumPy's and Python's generators: x (6,) → y (1,)."""

    def __init__(self, samples=SAMPLES, noise=0.1):
        source = torch.Generator().manual_seed(0)
        self.x = torch.randn(samples, FEATURES, generator=source)
        self.y = self.x.sin().sum(dim=1, keepdim=True)
        self.noise = noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.randn(FEATURES) + np.random.randn() + random.gauss(0, 1)
        return self.x[index] + self.noise * noise, self.y[index]


def network(dropout=0.2):
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1)
    )


def mixed(batch):
    """What mixup does: a batch and its reverse, in a share drawn from NumPy's generator."""
    x, y = batch
    share = float(np.random.beta(0.8, 0.8))
    return share * x + (1 - share) * x.flip(0), share * y + (1 - share) * y.flip(0)


def square(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


class CutAt:
    """A loss that raises in the middle of optimiser step ``step`` (0-based)."""

    def __init__(self, step, loss=square):
        self.left, self.loss = 2 * step + 1, loss

    def __call__(self, model, batch):
        if self.left == 0:
            raise Cut
        self.left -= 1
        return self.loss(model, batch)


class AskedAt:
    """A loss that has this process asked to stop in optimiser step ``step`` (0-based)."""

    def __init__(self, step, micro_batches=1):
        self.left = step * micro_batches

    def __call__(self, model, batch):
        if self.left == 0:
            os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
            while signals.stop_signal() is None:
                time.sleep(0.001)
        self.left -= 1
        return square(model, batch)


class NaNFrom:
    """``square``, and from optimiser step ``step`` (0-based) on, another number instead."""

    def __init__(self, step, value=float("nan")):
        self.left, self.value = 2 * step, value

    def __call__(self, model, batch):
        self.left -= 1
        return square(model, batch) * (1.0 if self.left >= 0 else self.value)


class Scaled(nn.Module):
    """A network in whose blocks not all of its parameters are."""

    def __init__(self):
        super().__init__()
        reseed(CONFIG.seed, "weights")
        self.scale = nn.Parameter(torch.ones(FEATURES))
        self.body = network()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.body(self.scale * x)


def grouped(model):
    """Changes of a learner to this model, with parameters of one dimension in another group."""
    groups = [[], []]
    for parameter in model.parameters():
        groups[parameter.ndim > 1].append(parameter)
    few, many = groups
    groups = [{"params": few, "weight_decay": 0.0, "lr": 0.01}, {"params": many}]
    optimizer = torch.optim.AdamW(groups, lr=CONFIG.lr)
    # The other way that this average has of going through a model: by its parameters.
    average = ModelEmaV3(model, 0.9, exclude_buffers=True)
    return {"model": model, "optimizer": optimizer, "ema": average, "norms": ()}


def learner(config=CONFIG, *, weights=None, norm=OWN, dropout=0.2, **changes):
    """A learner whose weights follow from the config's seed, or from ``weights``."""
    reseed(config.seed if weights is None else weights, "weights")
    model = network(dropout)
    norms = convert(model, norm).paths
    held_out = Points(samples=10, noise=0.0)

    def evaluate(model):
        error = square(model, (held_out.x, held_out.y)).item()
        return {"error": error, "double": 2 * error}

    usual = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=config.lr, betas=config.betas),
        "dataset": Points(),
        "loss": square,
        "evaluate": evaluate,
        "selection_metric": ("error", "lower"),
        "norms": norms,
        "prepare": mixed,
        "ema": None if config.ema_decay is None else ModelEmaV3(model, config.ema_decay),
    }
    return Learner(**{**usual, **changes})


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    usual = Context(directory=directory, signature=SIGNATURE, checkpoint_steps=5)
    return replace(usual, **changes)


@dataclass(kw_only=True)
class Trained:
    """What a run left behind."""

    directory: Path
    outcome: object = None

    @property
    def lines(self):
        """The lines of metrics.jsonl, read as strictly as JSON is defined."""

        def refuse(word):
            raise AssertionError(f"{word} is not JSON")

        text = (self.directory / "metrics.jsonl").read_text()
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    @property
    def losses(self):
        return [line["loss"] for line in self.lines if "loss" in line]

    @property
    def rates(self):
        return [line["lr"] for line in self.lines if "lr" in line]

    @property
    def checkpoints(self):
        return sorted(path.name for path in (self.directory / "checkpoints").iterdir())

    @property
    def newest(self):
        """The newest checkpoint."""
        return self.directory / "checkpoints" / self.checkpoints[-1]

    @property
    def state(self):
        """What is in it: name → tensor of "model", "ema" and "optimizer", and the rest."""
        state = checkpoint.read(self.newest)
        parts = {"model": {}, "ema": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        return {**state.plain, **parts}

    def json(self, name):
        return json.loads((self.directory / name).read_text())


def trained(directory, config=CONFIG, *, where=None, **changes):
    """Train in ``directory``; ``where`` changes the context, ``changes`` the learner."""
    where = context(directory, **(where or {}))
    outcome = fit(where, config, learner(config, **changes), CPU)
    return Trained(directory=directory, outcome=outcome)


def same(one, other):
    """Whether two nested states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def _bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_same_run(one, other):
    """Two runs that nothing in their directories tells apart."""
    assert one.outcome == other.outcome
    assert one.lines == other.lines
    assert one.json("fingerprint.json") == other.json("fingerprint.json")
    assert same(one.state, other.state)
