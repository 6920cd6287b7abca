"""Learning-rate schedules, as the loop logs and applies them."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from matched.training.schedule import lr_factor, warmup_steps

from .problem import CONFIG, PLAIN, grouped, mse, network, sgd, train


def lrs(directory, **changes):
    """The learning rate of every step; 3 steps per epoch."""
    return train(directory, replace(CONFIG, log_steps=1, **changes)).lrs


def test_lr_factor_warms_up_and_follows_the_cosine():
    config = replace(CONFIG, warmup_epochs=1, min_lr=0.1 * CONFIG.lr)
    factors = [lr_factor(step, 14, 2, config) for step in (0, 1, 2, 8, 14)]
    assert factors == pytest.approx([0, 0.5, 1, 0.55, 0.1])


def test_logged_lr_is_that_of_the_config_for_any_groups(tmp_path):
    config = replace(CONFIG, log_steps=1, warmup_epochs=0)
    assert train(tmp_path, config, **grouped(network())).lrs[0] == CONFIG.lr


class TestWarmup:
    @pytest.mark.parametrize(("epochs", "steps"), [(0.6, 2), (0.5, 2), (0.4, 1), (1, 3)])
    def test_warmup_epochs_are_rounded_to_steps(self, epochs, steps):
        assert warmup_steps(replace(CONFIG, warmup_epochs=epochs), 3) == steps

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
            ({"schedule": "steps"}, "schedule is 'steps'; expected 'cosine', 'constant', 'step'"),
        ],
    )
    def test_config_refuses_schedule_settings_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)


def factors(config, steps, at, steps_per_epoch=10**6):
    return [lr_factor(step, steps, steps_per_epoch, config) for step in at]


IN_STEPS = replace(PLAIN, epochs=None, steps=1000, lr=0.01, min_lr=0.001)


class TestWarmupSteps:
    def test_warmup_steps_equal_warmup_epochs_of_the_same_length(self, tmp_path):
        in_epochs = lrs(tmp_path / "epochs", warmup_epochs=2)
        assert lrs(tmp_path / "steps", warmup_epochs=0, warmup_steps=6) == in_epochs

    def test_warmup_starts_from_warmup_lr(self):
        config = replace(IN_STEPS, warmup_steps=100, warmup_lr=1e-6)
        rates = [0.01 * f for f in factors(config, 1000, (0, 50, 100))]
        assert rates == pytest.approx([1e-6, (1e-6 + 0.01) / 2, 0.01])

    def test_fit_refuses_a_warmup_longer_than_the_run(self, tmp_path):
        for name, warmup, run, changes in (
            ("epochs", 13, 12, {"warmup_epochs": 0, "warmup_steps": 13}),
            ("steps", 6, 5, {"epochs": None, "steps": 5, "warmup_epochs": 2}),
        ):
            with pytest.raises(ValueError) as error:
                lrs(tmp_path / name, **changes)
            assert str(error.value) == (
                f"the warm-up takes {warmup} steps and the run {run} (3 per epoch); shorten the "
                "warm-up or lengthen the run"
            )


class TestTimmCosine:
    """The "cosine" schedule equals timm's ``CosineLRScheduler``."""

    @pytest.mark.parametrize("prefix", [True, False])
    @pytest.mark.parametrize("length", [900, 1400, 600], ids=["to the end", "longer", "shorter"])
    def test_cosine_equals_timm_at_every_step(self, prefix, length):
        config = replace(
            IN_STEPS, warmup_steps=100, warmup_lr=1e-6, warmup_prefix=prefix, schedule_steps=length
        )
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
        timm = CosineLRScheduler(
            optimizer,
            t_initial=length,
            lr_min=0.001,
            warmup_t=100,
            warmup_lr_init=1e-6,
            warmup_prefix=prefix,
            t_in_epochs=False,
        )
        for step in range(1000):
            timm.step_update(step)
            (expected,) = (group["lr"] for group in optimizer.param_groups)
            assert 0.01 * lr_factor(step, 1000, 3, config) == pytest.approx(expected, rel=1e-12)

    def test_cosine_without_schedule_steps_ends_with_the_run(self):
        config = replace(IN_STEPS, warmup_steps=100)
        assert factors(config, 1000, (100, 550, 1000)) == pytest.approx([1, 0.55, 0.1])
        config = replace(config, warmup_prefix=False)
        assert factors(config, 1000, (500, 1000)) == pytest.approx([0.55, 0.1])


class TestFmsFsdp:
    CONFIG = replace(IN_STEPS, schedule="fms-fsdp")

    def test_fms_fsdp_equals_the_formula_of_its_training_script(self):
        for steps in (1000, 50_000):
            warmup = min(2000, steps // 20)
            for step in range(0, steps, 7):
                rising = 1 - (1 - min(step, warmup) / warmup) ** 2
                falling = 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))
                factor = lr_factor(step, steps, 3, self.CONFIG)
                assert factor == pytest.approx(min(rising, falling), rel=1e-12, abs=1e-15)

    def test_fms_fsdp_factors_at_50000_steps(self):
        at = (0, 200, 1000, 2000, 25_000, 50_000)
        expected = [0, 0.19, 0.75, 0.9964516, 0.55, 0.1]
        assert factors(self.CONFIG, 50_000, at) == pytest.approx(expected, rel=1e-6)

    def test_fms_fsdp_default_length_ends_at_99_percent(self):
        config = replace(self.CONFIG, schedule_steps=1_000_000)
        (last,) = factors(config, 50_000, (49_999,))
        assert last == pytest.approx(0.994, abs=5e-4)

    def test_fms_fsdp_may_be_shorter_than_the_run(self):
        config = replace(self.CONFIG, schedule_steps=400)
        assert factors(config, 1000, (400, 999)) == pytest.approx([0.1, 0.1])

    def test_fms_fsdp_with_few_steps_has_one_step_of_warmup(self, tmp_path):
        rates = lrs(tmp_path, schedule="fms-fsdp", warmup_epochs=0, epochs=None, steps=5)
        assert rates[0] == 0 and rates[1] > rates[2] > rates[4] > 0.001


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
