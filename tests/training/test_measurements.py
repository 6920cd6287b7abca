"""Measurements of runs: gradient norm, α, throughput and peak memory."""

import math
from dataclasses import replace

import pytest
import torch

from dyt import Norm
from matched.training import Hooks, measurements
from matched.training.measurements import PerformanceMeter, gradient_norm

from .problem import CONFIG, CPU, DYT, PLAIN, Crash, CrashAt, NaNFrom, Points, mse, sgd, train


def flat(model):
    """All weights of a model in one vector, copied."""
    return torch.cat([p.detach().clone().flatten() for p in model.parameters()])


class TestGradientNorm:
    @pytest.mark.parametrize("clip_norm", [None, 0.001])
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    @pytest.mark.parametrize("micro_batch", [4, 8])
    def test_gradient_norm_is_that_of_the_step_before_clipping(
        self, tmp_path, clip_norm, precision, micro_batch
    ):
        changes = sgd(lr=0.5)
        before = flat(changes["model"])
        config = replace(PLAIN, lr=0.5, epochs=1, precision=precision, micro_batch=micro_batch)
        small = {
            "loss": lambda model, batch: mse(model, batch) * 0.01,
            "dataset": Points(samples=8),
        }
        train(tmp_path / "unclipped", config, **small, **changes)
        expected = (flat(changes["model"]) - before).norm().item() / 0.5
        config = replace(config, clip_norm=clip_norm)
        run = train(tmp_path / "run", config, **small, **sgd(lr=0.5))
        assert run.gradient_norms == pytest.approx([expected], rel=1e-3)
        assert expected > 0.002

    def test_gradient_norm_precedes_hooks(self, tmp_path):
        class Halve(Hooks):
            def on_gradients(self, step_info):
                for parameter in changes["model"].parameters():
                    parameter.grad /= 2

        config = replace(PLAIN, epochs=1)
        expected = train(tmp_path / "without", config, **sgd(lr=0.0)).gradient_norms
        changes = sgd(lr=0.0)
        assert train(tmp_path / "with", config, hooks=Halve(), **changes).gradient_norms == expected

    def test_gradient_norm_of_shards_is_gathered(self, monkeypatch):
        """All processes then have a number, which any of them may read alone."""

        class Sharded:
            def full_tensor(self):
                return torch.tensor(5.0)

        gradients = []
        monkeypatch.setattr(measurements, "DTensor", Sharded)
        monkeypatch.setattr(
            measurements.nn.utils, "get_total_norm", lambda g: gradients.extend(g) or Sharded()
        )
        used, unused = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        used.weight.grad = torch.ones(3, 2)
        norm = gradient_norm([*used.parameters(), *unused.parameters()])
        assert norm.item() == 5 and gradients == [used.weight.grad]

    def test_gradient_norm_is_computed_in_logged_steps_only(self, tmp_path, monkeypatch):
        calls = []

        def counted(parameters):
            calls.append(parameters)
            return gradient_norm(parameters)

        monkeypatch.setattr("matched.training.loop.gradient_norm", counted)
        run = train(tmp_path, replace(CONFIG, log_steps=50))  # a line per epoch
        assert len(calls) == len(run.gradient_norms) == 4

    def test_gradient_norm_without_gradients_is_0(self):
        assert gradient_norm([torch.nn.Parameter(torch.ones(2))]).item() == 0

    def test_gradient_norm_that_is_not_finite_is_null(self, tmp_path):
        run = train(tmp_path, replace(PLAIN, epochs=1), loss=NaNFrom(0, math.inf))
        assert run.gradient_norms == [None]


class TestAlphas:
    @pytest.mark.parametrize(
        "norm, names", [(DYT, ["1"]), (Norm.derf(), ["1", "1.shift"]), (Norm.own(), [])]
    )
    def test_evaluation_lines_have_alpha_of_the_trained_weights(self, tmp_path, norm, names):
        run = train(tmp_path, norm=norm)
        evaluations = [line for line in run.lines if "evaluation" in line]
        assert len(evaluations) == 4
        assert all(list(line.get("alpha", {})) == names for line in evaluations)
        model = run.state["model"]
        weights = {"1": "1.alpha", "1.shift": "1.shift"}
        assert evaluations[-1].get("alpha", {}) == {n: model[weights[n]].item() for n in names}
        assert not any("alpha" in line for line in run.lines if "loss" in line)


class TestPerformance:
    def test_performance_has_a_line_for_each_logged_step(self, tmp_path):
        run = train(tmp_path)
        lines = run.performance
        assert [line["step"] for line in lines] == [x["step"] for x in run.lines if "loss" in x]
        assert all(line.keys() == {"step", "time", "samples_per_second"} for line in lines)
        assert all(line["samples_per_second"] > 0 for line in lines)

    def test_resume_cuts_performance_to_the_checkpoint_step(self, tmp_path):
        for step in (9, 0):
            with pytest.raises(Crash):
                train(tmp_path, loss=CrashAt(step))
            run = train(tmp_path, loss=CrashAt(99)) if step == 0 else None
        assert [line["step"] for line in run.performance] == [2, 3, 4, 6, 8, 9, 10, 12]

    def test_throughput_excludes_evaluations_and_checkpoints(self, tmp_path, monkeypatch):
        clock = Clock(monkeypatch)

        def evaluate(model):
            clock.now += 1000
            return {"error": 1.0}

        def save(*args, **more):
            clock.now += 1000

        def loss(model, batch):
            clock.now += 1
            return model(batch[0]).square().mean()

        monkeypatch.setattr("matched.training.checkpoint.save", save)
        run = train(
            tmp_path, replace(CONFIG, ema_decay=None), loss=loss, evaluate=evaluate, ema=None,
            where={"checkpoint_steps": 1},
        )  # fmt: skip
        # 8 samples per step, and one second for each of its two micro-batches.
        assert [line["samples_per_second"] for line in run.performance] == [4.0] * 8


class Clock:
    """Replaces the clock of the meter."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(measurements, "time", self)

    def perf_counter(self):
        return self.now


class TestMeter:
    def test_meter_starts_a_new_reading_after_each(self, monkeypatch):
        clock = Clock(monkeypatch)
        meter = PerformanceMeter(CPU)
        assert meter.read() == {}
        meter.add(8)
        meter.add(8)
        clock.now = 4.0
        assert meter.read() == {"samples_per_second": 4.0}
        meter.add(8)
        clock.now = 5.0
        assert meter.read() == {"samples_per_second": 8.0}

    def test_meter_has_the_peak_memory_of_a_gpu(self, monkeypatch):
        peaks, resets, synchronized = iter([3 * 2**20, 5 * 2**20]), [], []
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronized.append)
        meter = PerformanceMeter(torch.device("cuda", 0))
        meter.add(8)
        with meter.paused():
            assert synchronized == [torch.device("cuda", 0)], "queued steps count as training"
        assert meter.read()["peak_memory_mib"] == 3.0
        meter.add(8, peak_mib=7.5)  # of a trainer that resets torch's statistics
        meter.add(8, peak_mib=6.5)
        assert meter.read()["peak_memory_mib"] == 7.5
        assert len(resets) == 3
