"""What one run of the training loop does with its settings, and what it writes."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from timm.utils import ModelEmaV3

from matched.training import reseed

from .problem import CONFIG, Cut, CutAt, Points, network, square, trained

PLAIN = replace(CONFIG, log_steps=1, warmup_epochs=0, clip_norm=None, ema_decay=None)


def plain(batch):
    return batch


def sgd(lr):
    """Changes of a learner to plain gradient descent, with nothing random but the samples."""
    reseed(CONFIG.seed, "weights")
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return {"model": model, "optimizer": optimizer, "ema": None, "prepare": plain}


def flat(model):
    """All weights of a model in one vector, copied."""
    return torch.cat([p.detach().clone().flatten() for p in model.parameters()])


class TestSchedule:
    def rates(self, directory, **changes):
        return trained(directory, replace(CONFIG, log_steps=1, **changes)).rates

    def test_it_warms_up_linearly_from_0_to_the_peak(self, tmp_path):
        rates = self.rates(tmp_path, warmup_epochs=2)
        assert rates[:7] == pytest.approx([0.05 * step / 6 for step in range(7)])
        assert max(rates) == rates[6] == 0.05

    def test_half_an_epoch_of_warm_up(self, tmp_path):
        rates = self.rates(tmp_path, warmup_epochs=2 / 3)
        assert rates[:3] == pytest.approx([0, 0.025, 0.05])

    def test_without_warm_up_the_first_step_is_at_the_peak(self, tmp_path):
        assert self.rates(tmp_path, warmup_epochs=0)[0] == 0.05

    def test_the_cosine_falls_from_the_peak_to_min_lr(self, tmp_path):
        rates = self.rates(tmp_path, warmup_epochs=0, epochs=40)
        assert len(rates) == 120
        assert all(a > b for a, b in itertools.pairwise(rates))
        middle = (0.05 + 0.001) / 2
        assert rates[60] == pytest.approx(middle)
        assert rates[30] - middle == pytest.approx(middle - rates[90])
        assert 0.001 < rates[-1] < 0.00102

    def test_constant_stays_at_the_peak_after_the_warm_up(self, tmp_path):
        rates = self.rates(tmp_path, schedule="constant")
        assert rates[:3] == pytest.approx([0, 0.05 / 3, 0.1 / 3])
        assert rates[3:] == [0.05] * 9

    def test_every_group_of_parameters_keeps_its_own_peak(self, tmp_path):
        model = network()
        groups = [{"params": model[0].parameters()}, {"params": model[4].parameters(), "lr": 0.01}]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        trained(tmp_path, replace(CONFIG, epochs=2), model=model, optimizer=optimizer, ema=None)
        one, other = (group["lr"] for group in optimizer.param_groups)
        assert one == pytest.approx(5 * other)

    def test_the_rates_it_tells_are_those_it_takes(self, tmp_path):
        changes = sgd(lr=0.05)
        before = [p.clone() for p in changes["model"].parameters()]
        # One epoch, all of it warm-up: the first step is at rate 0 and must move nothing.
        seen = []

        def loss(model, batch):
            now = list(model.parameters())
            seen.append(all(torch.equal(a, b) for a, b in zip(before, now, strict=True)))
            return square(model, batch)

        trained(tmp_path, replace(PLAIN, epochs=1, warmup_epochs=1), loss=loss, **changes)
        assert seen == [True] * 4 + [False] * 2


class TestStep:
    def test_accumulated_micro_batches_are_one_big_batch(self, tmp_path):
        runs = [
            trained(tmp_path / str(size), replace(PLAIN, micro_batch=size), **sgd(lr=0.05))
            for size in (2, 4, 8)
        ]
        for run in runs[:2]:
            assert run.losses == pytest.approx(runs[2].losses, rel=1e-5)
            for name, tensor in run.state["model"].items():
                torch.testing.assert_close(tensor, runs[2].state["model"][name])

    @pytest.mark.parametrize("clip_norm", [None, 0.25])
    @pytest.mark.parametrize("micro_batch", [4, 8])
    def test_gradients_are_clipped_to_their_norm_over_the_whole_step(
        self, tmp_path, clip_norm, micro_batch
    ):
        changes = sgd(lr=0.5)
        before = flat(changes["model"])
        config = replace(PLAIN, lr=0.5, epochs=1, clip_norm=clip_norm, micro_batch=micro_batch)
        trained(tmp_path, config, dataset=Points(samples=8), **changes)
        norm = (flat(changes["model"]) - before).norm().item() / 0.5
        if clip_norm is None:
            assert norm > 0.5
        else:
            assert norm == pytest.approx(0.25, rel=1e-4)

    def test_bf16_computes_in_bf16_and_keeps_the_weights_in_fp32(self, tmp_path):
        seen = set()

        def loss(model, batch):
            hidden = model[0](batch[0])
            seen.add(hidden.dtype)
            return square(model, batch)

        run = trained(tmp_path, replace(PLAIN, precision="bf16", epochs=20), loss=loss)
        assert seen == {torch.bfloat16}
        assert {tensor.dtype for tensor in run.state["model"].values()} == {torch.float32}
        assert run.losses[-1] < run.losses[0] / 2

    def test_fp16_clips_what_the_gradients_are_without_the_loss_scale(self, tmp_path):
        changes = sgd(lr=0.5)
        before = flat(changes["model"])
        config = replace(PLAIN, lr=0.5, epochs=1, clip_norm=0.001, precision="fp16")
        small = lambda model, batch: square(model, batch) * 0.01  # noqa: E731
        trained(tmp_path, config, dataset=Points(samples=8), loss=small, **changes)
        moved = (flat(changes["model"]) - before).norm().item()
        assert moved / 0.5 == pytest.approx(0.001, rel=1e-3)

    def test_a_step_that_overflows_fp16_is_skipped_and_training_goes_on(self, tmp_path):
        # A gradient of 2 ** 5 times the first scale, 2 ** 16, is beyond fp16.
        config = replace(PLAIN, precision="fp16", lr=0.001)
        run = trained(tmp_path, config, loss=lambda model, batch: square(model, batch) * 2**9)
        assert not run.outcome.diverged
        assert run.state["scaler"]["scale"] < 2**16
        assert all(t.isfinite().all() for t in run.state["model"].values())


class TestAverage:
    def test_it_is_what_is_evaluated_and_the_weights_go_on_from_where_they_are(self, tmp_path):
        model = network(dropout=0.0)
        average, history, evaluated = ModelEmaV3(model, decay=0.9), [], []
        update = average.update

        def recorded(model):
            update(model)
            history.append((average.module[0].weight.clone(), model[0].weight.clone()))

        def evaluate(module):
            assert not module.training
            evaluated.append(module[0].weight.clone())
            return {"error": 1.0}

        average.update = recorded
        trained(
            tmp_path,
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            ema=average,
            evaluate=evaluate,
        )
        assert len(history) == 12 and len(evaluated) == 4
        for mean, weights in zip(evaluated, (history[i] for i in (2, 5, 8, 11)), strict=True):
            assert torch.equal(mean, weights[0]) and not torch.equal(mean, weights[1])
        for (before, _), (after, weights) in itertools.pairwise(history):
            torch.testing.assert_close(after, 0.9 * before + 0.1 * weights)

    def test_without_one_the_weights_themselves_are_evaluated(self, tmp_path):
        seen = []
        model = network()

        def evaluate(module):
            seen.append(module is model and not module.training)
            return {"error": 1.0}

        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        run = trained(tmp_path, PLAIN, model=model, optimizer=optimizer, evaluate=evaluate)
        assert seen == [True] * 4
        assert model.training
        assert run.state["ema"] == {}


class TestFiles:
    def test_metrics_jsonl_holds_a_line_every_log_steps_and_at_the_end_of_every_epoch(
        self, tmp_path
    ):
        run = trained(tmp_path, replace(CONFIG, eval_epochs=3))
        told = [(line["step"], line["epoch"]) for line in run.lines if "loss" in line]
        assert told == [
            (2, 0.6667), (3, 1.0), (4, 1.3333), (6, 2.0),
            (8, 2.6667), (9, 3.0), (10, 3.3333), (12, 4.0),
        ]  # fmt: skip
        evaluations = [line for line in run.lines if "evaluation" in line]
        assert [line["step"] for line in evaluations] == [9, 12]
        assert evaluations[-1] == {
            "step": 12,
            "epoch": 4.0,
            "evaluation": dict(run.outcome.metrics),
        }

    def test_a_loss_is_the_mean_since_the_line_before(self, tmp_path):
        every = trained(tmp_path / "every", replace(CONFIG, log_steps=1)).losses
        third = trained(tmp_path / "third", replace(CONFIG, log_steps=3)).losses
        means = [sum(every[i : i + 3]) / 3 for i in range(0, 12, 3)]
        assert third == pytest.approx(means, rel=1e-6)

    def test_progress_json_tells_the_step_and_the_newest_numbers(self, tmp_path):
        run = trained(tmp_path)
        progress = run.json("progress.json")
        assert (progress["step"], progress["steps"]) == (12, 12)
        assert progress["steps_per_second"] > 0
        assert progress["shown"] == {"loss": run.losses[-1], **run.outcome.metrics}

    def test_progress_json_of_a_run_without_a_step_is_at_its_beginning(self, tmp_path):
        with pytest.raises(Cut):
            trained(tmp_path, loss=CutAt(0))
        progress = json.loads((tmp_path / "progress.json").read_text())
        assert (progress["step"], progress["steps"]) == (0, 12)
        assert progress["steps_per_second"] is None

    def test_the_outcome_tells_the_last_and_the_best_evaluation(self, tmp_path):
        errors = iter([3.0, 1.0, 2.0, 2.5])
        run = trained(tmp_path, evaluate=lambda model: {"error": next(errors)})
        assert run.outcome.metrics == {"error": 2.5}
        assert run.outcome.best == {"error": 1.0, "step": 6}
        assert (run.outcome.steps, run.outcome.diverged) == (12, False)

    def test_higher_is_better_where_the_score_says_so(self, tmp_path):
        scores = iter([3.0, 1.0, 7.0, 2.5])
        run = trained(
            tmp_path,
            evaluate=lambda model: {"top1": next(scores)},
            selection_metric=("top1", "higher"),
        )
        assert run.outcome.best == {"top1": 7.0, "step": 9}


class TestMistakes:
    def test_a_batch_that_does_not_divide_evenly(self, tmp_path):
        message = r"a batch of 10 does not divide evenly over 1 processes and 3 accumulation steps"
        with pytest.raises(ValueError, match=message):
            trained(tmp_path, replace(CONFIG, batch=10))

    def test_a_batch_larger_than_the_data_set(self, tmp_path):
        with pytest.raises(ValueError, match="a batch of 32 is more than the 26 samples"):
            trained(tmp_path, replace(CONFIG, batch=32))

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"epochs": 0}, "epochs is 0; expected a whole number of 1 or more"),
            ({"batch": 8.0}, "batch is 8.0; expected a whole number"),
            ({"log_steps": True}, "log_steps is True; expected a whole number"),
            ({"lr": math.nan}, "lr nan and min_lr"),
            ({"min_lr": 0.1}, "expected 0 <= min_lr <= lr"),
            ({"warmup_epochs": 5}, r"warmup_epochs is 5; expected 0 to epochs \(4\)"),
            (
                {"schedule": "linear"},
                "schedule is 'linear'; expected 'cosine', 'constant' or 'step'",
            ),
            ({"precision": "fp8"}, "precision is 'fp8'; expected 'fp32', 'tf32', 'bf16' or 'fp16'"),
            ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a positive number or None"),
            ({"ema_decay": 1.0}, "ema_decay is 1.0; expected a number between 0 and 1"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_a_setting_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)
