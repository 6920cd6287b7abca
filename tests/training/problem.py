"""Toy problem that trains in milliseconds and draws from every kind of randomness."""

import json
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import Dataset

from dyt import Norm, alphas, convert
from matched import TrainConfig, signals
from matched.task import Context
from matched.training import Learner, checkpoint, fit, reseed

CPU = torch.device("cpu")
FEATURES, SAMPLES = 6, 26
SIGNATURE = "abcdef012345"
OWN, DYT = Norm.own(), Norm.dyt()

# 3 steps of 8 samples per epoch (2 samples are dropped), 12 steps, 2 micro-batches per step.
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
PLAIN = replace(CONFIG, log_steps=1, warmup_epochs=0, clip_norm=None, ema_decay=None)


class Crash(Exception):
    """Stands for whatever ends a process in the middle of a run."""


class Points(Dataset):
    """Points with noise from the generators of torch, NumPy and Python: x (6,) → y (1,)."""

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


def mixup(batch):
    """Mix a batch with its reverse, in a ratio drawn from NumPy's generator."""
    x, y = batch
    ratio = float(np.random.beta(0.8, 0.8))
    return ratio * x + (1 - ratio) * x.flip(0), ratio * y + (1 - ratio) * y.flip(0)


def mse(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


class CrashAt:
    """Loss that raises ``Crash`` in the middle of optimizer step ``step`` (0-based)."""

    def __init__(self, step, loss=mse):
        self.calls_left, self.loss = 2 * step + 1, loss

    def __call__(self, model, batch):
        if self.calls_left == 0:
            raise Crash
        self.calls_left -= 1
        return self.loss(model, batch)


class PreemptAt:
    """Loss that sends this process the preemption signal in optimizer step ``step`` (0-based)."""

    def __init__(self, step, micro_batches=1):
        self.calls_left = step * micro_batches

    def __call__(self, model, batch):
        if self.calls_left == 0:
            os.kill(os.getpid(), signals.PREEMPTION_SIGNAL)
            while signals.stop_signal() is None:
                time.sleep(0.001)
        self.calls_left -= 1
        return mse(model, batch)


class NaNFrom:
    """``mse``, multiplied by ``value`` from optimizer step ``step`` (0-based) on."""

    def __init__(self, step, value=float("nan")):
        self.calls_left, self.value = 2 * step, value

    def __call__(self, model, batch):
        self.calls_left -= 1
        return mse(model, batch) * (1.0 if self.calls_left >= 0 else self.value)


class Scaled(nn.Module):
    """A network with parameters outside of its blocks."""

    def __init__(self):
        super().__init__()
        reseed(CONFIG.seed, "weights")
        self.scale = nn.Parameter(torch.ones(FEATURES))
        self.body = network()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.body(self.scale * x)


def grouped(model):
    """Changes of a learner to this model, with vectors and matrices in separate groups."""
    groups = [[], []]
    for parameter in model.parameters():
        groups[parameter.ndim > 1].append(parameter)
    vectors, matrices = groups
    groups = [{"params": vectors, "weight_decay": 0.0, "lr": 0.01}, {"params": matrices}]
    optimizer = torch.optim.AdamW(groups, lr=CONFIG.lr)
    # Covers the other code path of ModelEmaV3, which goes through parameters only.
    ema = ModelEmaV3(model, 0.9, exclude_buffers=True)
    return {"model": model, "optimizer": optimizer, "ema": ema, "norms": ()}


def sgd(lr, seed=CONFIG.seed):
    """Changes of a learner to plain gradient descent, with no randomness but the samples."""
    reseed(seed, "weights")
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return {"model": model, "optimizer": optimizer, "ema": None, "prepare": lambda batch: batch}


class CountingSGD(torch.optim.SGD):
    """Gradient descent whose steps shrink, with their number in the groups as in AdamWScheduleFree.

    Each parameter also has a count that is no tensor, as in torch's older Adam.
    """

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        for group in self.param_groups:
            group["steps_done"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps_done"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["calls"] = state.get("calls", 0) + 1
                size = group["lr"] / (group["steps_done"] + state["calls"])
                parameter.data.sub_(parameter.grad, alpha=size)


def counting(seed=CONFIG.seed):
    """Changes of a learner to ``CountingSGD``, with two groups of different learning rates."""
    changes = sgd(lr=0.5, seed=seed)
    model = changes["model"]
    groups = [{"params": model[0].parameters(), "lr": 1.0}, {"params": model[4].parameters()}]
    return changes | {"optimizer": CountingSGD(groups, lr=0.5)}


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def learner(config=CONFIG, *, weights=None, norm=OWN, dropout=0.2, **changes):
    """A learner whose initial weights follow from the config's seed, or from ``weights``."""
    reseed(config.seed if weights is None else weights, "weights")
    model = network(dropout)
    norms = convert(model, norm).paths
    held_out = Points(samples=10, noise=0.0)

    def evaluate(model):
        error = mse(model, (held_out.x, held_out.y)).item()
        return {"error": error, "double": 2 * error}

    defaults = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=config.lr, betas=config.betas),
        "dataset": Points(),
        "loss": mse,
        "evaluate": evaluate,
        "selection_metric": ("error", "lower"),
        "norms": norms,
        "prepare": mixup,
        "alphas": alphas,
        "ema": None if config.ema_decay is None else ModelEmaV3(model, config.ema_decay),
    }
    return Learner(**{**defaults, **changes})


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    default = Context(directory=directory, signature=SIGNATURE, checkpoint_steps=5)
    return replace(default, **changes)


@dataclass(kw_only=True)
class TrainedRun:
    """The run directory of a training run, and its outcome."""

    directory: Path
    outcome: object = None

    @property
    def lines(self):
        """The lines of metrics.jsonl, parsed as strict JSON."""

        def refuse(word):
            raise AssertionError(f"{word} is not JSON")

        text = (self.directory / "metrics.jsonl").read_text()
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    @property
    def performance(self):
        """The lines of performance.jsonl."""
        text = (self.directory / "performance.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def gradient_norms(self):
        return [line["gradient_norm"] for line in self.lines if "gradient_norm" in line]

    @property
    def losses(self):
        return [line["loss"] for line in self.lines if "loss" in line]

    @property
    def lrs(self):
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
        """Its content: name → tensor of "model", "ema" and "optimizer", and the plain values."""
        state = checkpoint.read(self.newest)
        parts = {"model": {}, "ema": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        return {**state.plain, **parts}

    def json(self, name):
        return json.loads((self.directory / name).read_text())


def train(directory, config=CONFIG, *, where=None, **changes):
    """Train in ``directory``; ``where`` changes the context, ``changes`` the learner."""
    where = context(directory, **(where or {}))
    outcome = fit(where, config, learner(config, **changes), CPU)
    return TrainedRun(directory=directory, outcome=outcome)


def identical(one, other):
    """True if two nested states are equal bit by bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


def _bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_same_run(one, other):
    """Check that outcome, metrics.jsonl, fingerprint and checkpoint are bit-identical."""
    assert one.outcome == other.outcome
    assert one.lines == other.lines
    assert one.json("fingerprint.json") == other.json("fingerprint.json")
    assert identical(one.state, other.state)


def assert_close_runs(one, other):
    """Check that two runs agree to float tolerance, and their fingerprints exactly."""
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert one.json("fingerprint.json") == other.json("fingerprint.json")
    first, second = one.state, other.state
    for part in ("model", "ema", "optimizer"):
        assert first[part].keys() == second[part].keys()
        for name, tensor in first[part].items():
            torch.testing.assert_close(tensor, second[part][name], rtol=1e-3, atol=1e-4)
