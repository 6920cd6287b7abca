"""Learners that tasks pass to the training loop, without a step of training."""

from collections.abc import Callable

import pytest


class TrainingStopped(Exception):
    """Ends a task where it would start to train."""


def learner_of(monkeypatch, module, task: Callable, *arguments):
    """Return the learner that ``task(*arguments)`` passes to ``fit`` of ``module``."""
    caught = []

    def fit(context, config, learner, device):
        caught.append(learner)
        raise TrainingStopped

    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", fit)
        with pytest.raises(TrainingStopped):
            task(*arguments)
    return caught[0]
