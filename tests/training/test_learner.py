"""Learner: hooks around each optimizer step, StepInfo, parameter names."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from matched.training import Hooks

from .problem import (
    CONFIG,
    PLAIN,
    Crash,
    CrashAt,
    Points,
    assert_same_run,
    grouped,
    learner,
    mse,
    network,
    sgd,
    train,
)


class Recorder(Hooks):
    """Records the calls and their StepInfo."""

    def __init__(self):
        self.events = []
        self.steps = []

    def before_step(self, step_info):
        self.events.append("before")
        self.steps.append(step_info)

    def on_gradients(self, step_info):
        self.events.append("gradients")
        assert step_info == self.steps[-1]

    def after_step(self, step_info):
        self.events.append("after")
        assert step_info == self.steps[-1]


class GrowingWeightDecay(Hooks):
    """Something that follows from the StepInfo and that changes the result."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def before_step(self, step_info):
        self.optimizer.param_groups[0]["weight_decay"] = step_info.progress + step_info.epoch


def one_step(directory, **changes):
    """Return the gradients that a hook sees in a single step, and how far the weights move."""
    descent = sgd(lr=0.5) | {"dataset": Points(samples=8)}
    gradients = {}

    class CopyGradients(Hooks):
        def on_gradients(self, step_info):
            gradients.update({n: p.grad.clone() for n, p in descent["model"].named_parameters()})

    before = {name: p.detach().clone() for name, p in descent["model"].named_parameters()}
    loss = changes.pop("loss", mse)
    config = replace(PLAIN, lr=0.5, epochs=1, **changes)
    train(directory, config, hooks=CopyGradients(), loss=loss, **descent)
    moved = {n: (before[n] - p.detach()) / 0.5 for n, p in descent["model"].named_parameters()}
    return gradients, moved


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients.values()]).norm().item()


class TestHookOrder:
    def test_hooks_are_called_once_per_optimizer_step(self, tmp_path):
        hooks = Recorder()

        def loss(model, batch):
            hooks.events.append("loss")
            return mse(model, batch)

        train(tmp_path, hooks=hooks, loss=loss)
        assert hooks.events == ["before", "loss", "loss", "gradients", "after"] * 12

    def test_step_info_has_step_epoch_and_progress(self, tmp_path):
        hooks = Recorder()
        train(tmp_path, hooks=hooks)
        assert [s.step for s in hooks.steps] == list(range(12))
        assert [s.epoch for s in hooks.steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert [s.progress for s in hooks.steps] == [step / 12 for step in range(12)]

    def test_resumed_run_calls_hooks_from_the_next_step(self, tmp_path):
        with pytest.raises(Crash):
            train(tmp_path, loss=CrashAt(7))
        hooks = Recorder()
        train(tmp_path, hooks=hooks)
        assert [s.step for s in hooks.steps] == list(range(5, 12))  # after the checkpoint
        assert {s.steps for s in hooks.steps} == {12}

    def test_before_step_sees_new_lr_after_step_new_weights(self, tmp_path):
        descent = sgd(lr=0.05) | {"dataset": Points(samples=8)}
        weight, optimizer = descent["model"][0].weight, descent["optimizer"]
        lrs, weights = [], []

        class Check(Hooks):
            def before_step(self, step_info):
                lrs.append(optimizer.param_groups[0]["lr"])
                weights.append(weight.detach().clone())

            def on_gradients(self, step_info):
                assert torch.equal(weight, weights[-1])

            def after_step(self, step_info):
                assert not torch.equal(weight, weights[-1])
                assert weight.grad is None

        run = train(tmp_path, PLAIN, hooks=Check(), **descent)
        assert lrs == run.lrs and len(set(lrs)) == len(lrs) == 4

    def test_ema_is_updated_before_after_step(self, tmp_path):
        events = []

        class Ema:
            module = network()

            def update(self, model):
                events.append("ema")

        class Record(Hooks):
            def after_step(self, step_info):
                events.append("after")

        train(tmp_path, replace(CONFIG, epochs=1), hooks=Record(), ema=Ema())
        assert events == ["ema", "after"] * 3


class TestOnGradients:
    def test_on_gradients_sees_the_sum_of_all_micro_batches(self, tmp_path):
        one, _ = one_step(tmp_path / "one", micro_batch=8)
        two, _ = one_step(tmp_path / "two", micro_batch=4)
        for name in one:
            torch.testing.assert_close(one[name], two[name])

    def test_on_gradients_sees_unclipped_gradients(self, tmp_path):
        gradients, moved = one_step(tmp_path, clip_norm=0.01)
        assert norm(gradients) > 0.1
        assert norm(moved) == pytest.approx(0.01, rel=1e-3)

    def test_on_gradients_sees_unscaled_gradients_with_fp16(self, tmp_path):
        small = lambda model, batch: mse(model, batch) * 0.01  # noqa: E731
        half, _ = one_step(tmp_path / "half", precision="fp16", loss=small)
        full, _ = one_step(tmp_path / "full", loss=small)
        assert norm(half) == pytest.approx(norm(full), rel=0.01)

    def test_on_gradients_can_freeze_a_parameter(self, tmp_path):
        descent = sgd(lr=0.5) | {"dataset": Points(samples=8)}
        first, last = descent["model"][0].weight, descent["model"][4].weight
        before = first.detach().clone(), last.detach().clone()

        class Freeze(Hooks):
            def on_gradients(self, step_info):
                last.grad = None

        train(tmp_path, replace(PLAIN, epochs=1), hooks=Freeze(), **descent)
        assert torch.equal(last, before[1]) and not torch.equal(first, before[0])


def test_hooks_that_use_step_info_resume_bit_identical(tmp_path):
    def run(directory, seed=CONFIG.seed, **changes):
        descent = sgd(lr=0.05, seed=seed)
        hooks = GrowingWeightDecay(descent["optimizer"])
        return train(directory, PLAIN, hooks=hooks, **descent, **changes)

    uninterrupted = run(tmp_path / "uninterrupted")
    with pytest.raises(Crash):
        run(tmp_path / "crashed", loss=CrashAt(7))
    # Other initial weights, to detect anything that the checkpoint does not restore.
    assert_same_run(run(tmp_path / "crashed", seed=99), uninterrupted)


def test_replace_parameters_keeps_the_groups():
    """FSDP replaces every parameter of a model."""
    problem = learner(**grouped(network()))
    names = problem.group_names()
    assert [len(group) for group in names] == [4, 2]
    for module in problem.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))
    problem.replace_parameters(names)
    assert problem.group_names() == names
    held = {p for group in problem.optimizer.param_groups for p in group["params"]}
    assert held == set(problem.model.parameters())


def test_parameter_names_refuses_an_optimizer_of_other_parameters():
    other = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"not the model's, of shapes \[\(3, 2\), \(3,\)\]"):
        learner(optimizer=other).parameter_names()
