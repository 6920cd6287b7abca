"""Learning-rate schedules, as the loop logs and applies them."""

import itertools
from dataclasses import replace

import pytest
import torch

from matched.training.schedule import lr_factor

from .problem import CONFIG, PLAIN, mse, network, sgd, train


def lrs(directory, **changes):
    """The learning rate of every step; 3 steps per epoch."""
    return train(directory, replace(CONFIG, log_steps=1, **changes)).lrs


def test_lr_factor_warms_up_and_follows_the_cosine():
    config = replace(CONFIG, warmup_epochs=1, min_lr=0.1 * CONFIG.lr)
    factors = [lr_factor(step, 14, 2, config) for step in (0, 1, 2, 8, 14)]
    assert factors == pytest.approx([0, 0.5, 1, 0.55, 0.1])


class TestWarmup:
    def test_warmup_is_linear_from_0_to_the_peak(self, tmp_path):
        rates = lrs(tmp_path, warmup_epochs=2)
        assert rates[:7] == pytest.approx([0.05 * step / 6 for step in range(7)])
        assert max(rates) == rates[6] == 0.05

    def test_warmup_epochs_may_be_fractional(self, tmp_path):
        rates = lrs(tmp_path, warmup_epochs=2 / 3)
        assert rates[:3] == pytest.approx([0, 0.025, 0.05])

    def test_without_warmup_the_first_step_has_the_peak_lr(self, tmp_path):
        assert lrs(tmp_path, warmup_epochs=0)[0] == 0.05


class TestCosine:
    def test_cosine_falls_from_the_peak_to_min_lr(self, tmp_path):
        rates = lrs(tmp_path, warmup_epochs=0, epochs=40)
        assert len(rates) == 120
        assert all(a > b for a, b in itertools.pairwise(rates))
        middle = (0.05 + 0.001) / 2
        assert rates[60] == pytest.approx(middle)
        assert rates[30] - middle == pytest.approx(middle - rates[90])
        assert 0.001 < rates[-1] < 0.00102


class TestConstant:
    def test_constant_stays_at_the_peak_after_the_warmup(self, tmp_path):
        rates = lrs(tmp_path, schedule="constant")
        assert rates[:3] == pytest.approx([0, 0.05 / 3, 0.1 / 3])
        assert rates[3:] == [0.05] * 9


class TestStep:
    def lrs(self, directory, **changes):
        return train(directory, replace(PLAIN, lr=0.05, schedule="step", **changes)).lrs

    def test_step_multiplies_by_decay_factor_every_decay_epochs(self, tmp_path):
        rates = self.lrs(tmp_path, epochs=5, decay_epochs=2)
        assert rates == pytest.approx([0.05] * 6 + [0.005] * 6 + [0.0005] * 3)

    def test_decay_epochs_are_counted_from_the_start_of_training(self, tmp_path):
        rates = self.lrs(tmp_path, decay_epochs=2, decay_factor=0.5, warmup_epochs=1)
        assert rates == pytest.approx([0, 0.05 / 3, 0.1 / 3, *[0.05] * 3, *[0.025] * 6])

    def test_step_stays_at_the_peak_before_decay_epochs(self, tmp_path):
        assert self.lrs(tmp_path, decay_epochs=30) == [0.05] * 12

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
    def test_config_refuses_schedule_settings_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)


class TestApplied:
    def test_each_parameter_group_keeps_its_own_peak_lr(self, tmp_path):
        model = network()
        groups = [{"params": model[0].parameters()}, {"params": model[4].parameters(), "lr": 0.01}]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        train(tmp_path, replace(CONFIG, epochs=2), model=model, optimizer=optimizer, ema=None)
        one, other = (group["lr"] for group in optimizer.param_groups)
        assert one == pytest.approx(5 * other)

    def test_logged_lr_is_the_applied_lr(self, tmp_path):
        changes = sgd(lr=0.05)
        initial = [p.clone() for p in changes["model"].parameters()]
        # One epoch, all of it warm-up: the first step has the rate 0 and must not move anything.
        unchanged = []

        def loss(model, batch):
            pairs = zip(initial, model.parameters(), strict=True)
            unchanged.append(all(torch.equal(a, b) for a, b in pairs))
            return mse(model, batch)

        train(tmp_path, replace(PLAIN, epochs=1, warmup_epochs=1), loss=loss, **changes)
        assert unchanged == [True] * 4 + [False] * 2
