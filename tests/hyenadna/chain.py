"""Tiny chains of DNA runs: a prepared genome, pretraining, fine-tuning, and interrupted runs."""

import json
from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_hyenadna.config import FineTuning, Pretraining
from dyt_hyenadna.network_config import HyenaNetwork
from matched.task import Context

from ..learners import learner_of

ARMS = {"LN": Norm.own(), "DyT": Norm.dyt(alpha0=2.0)}
LENGTH = 32
TASK = "demo_human_or_worm"
NETWORK = HyenaNetwork(width=8, layers=1, max_length=LENGTH + 2, filter_width=8, embedding_std=1.0)
SHORT = {"data": "synthetic-genome", "batch": 8, "micro_batch": 4, "lr": 1e-2, "log_steps": 1}
PRETRAINING = Pretraining(
    **SHORT,
    network=NETWORK,
    length=LENGTH,
    flip=0.5,
    steps=4,
    eval_steps=2,
    eval_samples=12,
    eval_batch=5,
)
TUNING = FineTuning(
    **SHORT,
    network=NETWORK,
    task=TASK,
    max_length=LENGTH,
    split=1,
    train_samples=16,
    flip=0.5,
    epochs=2,
    eval_batch=100,
)


def context(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    return Context(directory=directory, signature="abcdef012345", checkpoint_steps=2, **changes)


def run(task, directory, config, **needs):
    """Run a task and write its result, as the harness does; return its outcome and directory."""
    outcome = task(context(directory, needs=needs), config)
    result = {
        "outcome": "diverged" if outcome.diverged else "done",
        "metrics": dict(outcome.metrics),
        "details": dict(outcome.details),
    }
    (directory / "result.json").write_text(json.dumps(result))
    return outcome, directory


def learner(monkeypatch, module, task, directory, config, **needs):
    """Return the learner that ``task`` passes to the training loop of ``module``."""
    return learner_of(monkeypatch, module, task, context(directory, needs=needs), config)


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def assert_same_state(one, other):
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Interruption(Exception):
    """Represents anything that ends a process in the middle of a run."""


def assert_resume_is_bit_identical(monkeypatch, module, task, folder, config, **needs):
    """Compare a run that is interrupted in its third step and resumed with an uninterrupted one.

    All tensors of the resuming process are changed before its checkpoint is read, so that the
    comparison fails if the checkpoint does not restore one of them.
    """
    expected, whole = run(task, folder / "whole", config, **needs)
    fit, calls = module.fit, []

    def fit_interrupted(context, config, learner, device):
        def loss(model, batch):
            calls.append(batch)
            if len(calls) == 6:  # two micro-batches per step
                raise Interruption
            return learner.loss(model, batch)

        return fit(context, config, replace(learner, loss=loss), device)

    def fit_with_changed_tensors(context, config, learner, device):
        with torch.no_grad():
            for tensor in learner.model.state_dict().values():
                tensor.add_(1)
        return fit(context, config, learner, device)

    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", fit_interrupted)
        with pytest.raises(Interruption):
            task(context(folder / "parts", needs=needs), config)
        patched.setattr(module, "fit", fit_with_changed_tensors)
        actual, parts = run(task, folder / "parts", config, **needs)
    assert actual == expected
    for name in ("metrics.jsonl", "fingerprint.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    states = [
        torch.load(max((d / "checkpoints").glob("step_*.pt")), weights_only=True)
        for d in (whole, parts)
    ]
    assert_same_state(states[0]["tensors"], states[1]["tensors"])
