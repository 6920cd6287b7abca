"""What a method does around each optimiser step, and the step-wise schedule of the rates."""

from dataclasses import replace

import pytest
import torch

from matched.training import Hooks, reseed

from .problem import CONFIG, Cut, CutAt, Points, assert_same_run, network, square, trained

PLAIN = replace(CONFIG, log_steps=1, warmup_epochs=0, clip_norm=None, ema_decay=None)


class Recorder(Hooks):
    """Notes what it is called for, with the moment; ``note`` is for what comes in between."""

    def __init__(self):
        self.events = []
        self.moments = []

    def before_step(self, step_info):
        self.events.append("before")
        self.moments.append(step_info)

    def on_gradients(self, step_info):
        self.events.append("gradients")
        assert step_info == self.moments[-1]

    def after_step(self, step_info):
        self.events.append("after")
        assert step_info == self.moments[-1]


class Growing(Hooks):
    """Something that follows from the moment and that the result depends on."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def before_step(self, step_info):
        self.optimizer.param_groups[0]["weight_decay"] = step_info.progress + step_info.epoch


def descent(lr=0.5, seed=CONFIG.seed):
    """Changes of a learner to plain gradient descent, with nothing random but the samples."""
    reseed(seed, "weights")
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    plain = {"ema": None, "prepare": lambda batch: batch, "dataset": Points(samples=8)}
    return {"model": model, "optimizer": optimizer, **plain}


def gradients_of_one_step(directory, **changes):
    """The gradients that a hook sees in a single step, and how far the weights then move."""
    learner = descent()
    seen = {}

    class Look(Hooks):
        def on_gradients(self, step_info):
            seen.update({n: p.grad.clone() for n, p in learner["model"].named_parameters()})

    before = {name: p.detach().clone() for name, p in learner["model"].named_parameters()}
    loss = changes.pop("loss", square)
    config = replace(PLAIN, lr=0.5, epochs=1, **changes)
    trained(directory, config, hooks=Look(), loss=loss, **learner)
    moved = {n: (before[n] - p.detach()) / 0.5 for n, p in learner["model"].named_parameters()}
    return seen, moved


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients.values()]).norm().item()


class TestOrder:
    def test_each_optimiser_step_has_one_call_of_each_however_many_micro_batches(self, tmp_path):
        hooks = Recorder()

        def loss(model, batch):
            hooks.events.append("loss")
            return square(model, batch)

        trained(tmp_path, hooks=hooks, loss=loss)
        assert hooks.events == ["before", "loss", "loss", "gradients", "after"] * 12

    def test_the_moment_tells_step_epoch_and_progress(self, tmp_path):
        hooks = Recorder()
        trained(tmp_path, hooks=hooks)
        assert [m.step for m in hooks.moments] == list(range(12))
        assert [m.epoch for m in hooks.moments] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert [m.progress for m in hooks.moments] == [step / 12 for step in range(12)]

    def test_after_a_cut_they_go_on_with_the_step_that_comes_next(self, tmp_path):
        with pytest.raises(Cut):
            trained(tmp_path, loss=CutAt(7))
        hooks = Recorder()
        trained(tmp_path, hooks=hooks)
        assert [m.step for m in hooks.moments] == list(range(5, 12))  # after the checkpoint
        assert {m.steps for m in hooks.moments} == {12}

    def test_the_rates_are_set_before_the_step_and_the_weights_moved_after_it(self, tmp_path):
        learner = descent(lr=0.05)
        weight, optimizer = learner["model"][0].weight, learner["optimizer"]
        rates, held = [], []

        class Look(Hooks):
            def before_step(self, step_info):
                rates.append(optimizer.param_groups[0]["lr"])
                held.append(weight.detach().clone())

            def on_gradients(self, step_info):
                assert torch.equal(weight, held[-1])

            def after_step(self, step_info):
                assert not torch.equal(weight, held[-1])
                assert weight.grad is None

        run = trained(tmp_path, PLAIN, hooks=Look(), **learner)
        assert rates == run.rates and len(set(rates)) == len(rates) == 4

    def test_the_average_has_been_updated_before_the_last_of_them(self, tmp_path):
        events = []

        class Average:
            module = network()

            def update(self, model):
                events.append("ema")

        class Look(Hooks):
            def after_step(self, step_info):
                events.append("after")

        trained(tmp_path, replace(CONFIG, epochs=1), hooks=Look(), ema=Average())
        assert events == ["ema", "after"] * 3


class TestGradients:
    def test_they_are_whole_whatever_the_micro_batches(self, tmp_path):
        one, _ = gradients_of_one_step(tmp_path / "one", micro_batch=8)
        two, _ = gradients_of_one_step(tmp_path / "two", micro_batch=4)
        for name in one:
            torch.testing.assert_close(one[name], two[name])

    def test_they_are_not_clipped_yet(self, tmp_path):
        seen, moved = gradients_of_one_step(tmp_path, clip_norm=0.01)
        assert norm(seen) > 0.1
        assert norm(moved) == pytest.approx(0.01, rel=1e-3)

    def test_fp16_does_not_scale_them(self, tmp_path):
        small = lambda model, batch: square(model, batch) * 0.01  # noqa: E731
        half, _ = gradients_of_one_step(tmp_path / "half", precision="fp16", loss=small)
        full, _ = gradients_of_one_step(tmp_path / "full", loss=small)
        assert norm(half) == pytest.approx(norm(full), rel=0.01)

    def test_a_parameter_whose_gradient_is_taken_away_stays(self, tmp_path):
        learner = descent()
        first, last = learner["model"][0].weight, learner["model"][4].weight
        before = first.detach().clone(), last.detach().clone()

        class Freeze(Hooks):
            def on_gradients(self, step_info):
                last.grad = None

        trained(tmp_path, replace(PLAIN, epochs=1), hooks=Freeze(), **learner)
        assert torch.equal(last, before[1]) and not torch.equal(first, before[0])


def test_what_follows_from_the_moment_survives_a_cut(tmp_path):
    def run(directory, seed=CONFIG.seed, **changes):
        learner = descent(lr=0.05, seed=seed) | {"dataset": Points()}
        return trained(directory, PLAIN, hooks=Growing(learner["optimizer"]), **learner, **changes)

    whole = run(tmp_path / "whole")
    with pytest.raises(Cut):
        run(tmp_path / "cut", loss=CutAt(7))
    # Other first weights, so that whatever the checkpoint fails to restore shows.
    assert_same_run(run(tmp_path / "cut", seed=99), whole)


class TestStepwiseRates:
    def rates(self, directory, **changes):
        config = replace(PLAIN, lr=0.05, schedule="step", **changes)
        return trained(directory, config).rates

    def test_the_rate_falls_by_the_factor_after_every_so_many_epochs(self, tmp_path):
        rates = self.rates(tmp_path, epochs=5, decay_epochs=2)
        assert rates == pytest.approx([0.05] * 6 + [0.005] * 6 + [0.0005] * 3)

    def test_epochs_are_counted_from_the_start_not_from_the_end_of_the_warm_up(self, tmp_path):
        rates = self.rates(tmp_path, decay_epochs=2, decay_factor=0.5, warmup_epochs=1)
        assert rates == pytest.approx([0, 0.05 / 3, 0.1 / 3, *[0.05] * 3, *[0.025] * 6])

    def test_without_a_whole_span_it_stays_at_the_peak(self, tmp_path):
        assert self.rates(tmp_path, decay_epochs=30) == [0.05] * 12

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"decay_factor": 0.0}, "decay_factor is 0.0; expected above 0, at most 1"),
            ({"decay_factor": 1.5}, "decay_factor is 1.5; expected above 0, at most 1"),
            ({"decay_factor": float("nan")}, "decay_factor is nan; expected above 0"),
            ({"decay_epochs": 0}, "decay_epochs is 0; expected a whole number of 1 or more"),
            ({"schedule": "steps"}, "schedule is 'steps'; expected 'cosine', 'constant' or 'step'"),
        ],
    )
    def test_a_setting_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)
