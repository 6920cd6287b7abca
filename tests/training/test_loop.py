"""Training loop: optimizer steps, precision, files, outcome, refused settings."""

import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from matched.training import loop
from matched.training.fingerprint import BATCHES

from .problem import (
    CONFIG,
    FEATURES,
    PLAIN,
    Crash,
    CrashAt,
    NaNFrom,
    Points,
    assert_same_run,
    mse,
    sgd,
    train,
)


def flat(model):
    """All weights of a model in one vector, copied."""
    return torch.cat([p.detach().clone().flatten() for p in model.parameters()])


class TestStep:
    def test_accumulated_micro_batches_equal_one_big_batch(self, tmp_path):
        runs = [
            train(tmp_path / str(size), replace(PLAIN, micro_batch=size), **sgd(lr=0.05))
            for size in (2, 4, 8)
        ]
        for run in runs[:2]:
            assert run.losses == pytest.approx(runs[2].losses, rel=1e-5)
            for name, tensor in run.state["model"].items():
                torch.testing.assert_close(tensor, runs[2].state["model"][name])

    def test_gradients_are_synchronized_in_the_last_micro_batch(self, tmp_path, monkeypatch):
        calls = []

        def gradient_sync(self, *, last):
            calls.append(last)
            return nullcontext()

        monkeypatch.setattr(loop._TrainingLoop, "_gradient_sync", gradient_sync)
        train(tmp_path, replace(PLAIN, epochs=None, steps=2, micro_batch=2))
        assert calls == [False, False, False, True] * 2

    @pytest.mark.parametrize(
        ("world_size", "sharded", "in_the_last", "before"),
        [(1, False, [], []), (2, False, [], ["no sync"]), (2, True, [True], [False])],
        ids=["one process", "DDP", "sharded"],
    )
    def test_gradient_sync_asks_the_wrapper(self, world_size, sharded, in_the_last, before):
        """Without DDP's block, or FSDP's flag for copies, copies of the weights would differ."""
        for last, expected in ((True, in_the_last), (False, before)):
            calls = []

            @contextmanager
            def no_sync(calls=calls):
                calls.append("no sync")
                yield

            model = SimpleNamespace(no_sync=no_sync, set_requires_all_reduce=calls.append)
            training_loop = SimpleNamespace(
                model=model, sharded=sharded, context=SimpleNamespace(world_size=world_size)
            )
            with loop._TrainingLoop._gradient_sync(training_loop, last=last):
                pass
            assert calls == expected

    @pytest.mark.parametrize("clip_norm", [None, 0.25])
    @pytest.mark.parametrize("micro_batch", [4, 8])
    def test_clip_norm_clips_the_gradient_of_the_whole_step(self, tmp_path, clip_norm, micro_batch):
        changes = sgd(lr=0.5)
        before = flat(changes["model"])
        config = replace(PLAIN, lr=0.5, epochs=1, clip_norm=clip_norm, micro_batch=micro_batch)
        train(tmp_path, config, dataset=Points(samples=8), **changes)
        norm = (flat(changes["model"]) - before).norm().item() / 0.5
        if clip_norm is None:
            assert norm > 0.5
        else:
            assert norm == pytest.approx(0.25, rel=1e-4)

    def test_bf16_computes_in_bf16_with_fp32_weights(self, tmp_path):
        dtypes, evaluated = set(), set()

        def loss(model, batch):
            hidden = model[0](batch[0])
            dtypes.add(hidden.dtype)
            return mse(model, batch)

        def evaluate(model):
            evaluated.add((model(torch.ones(2, FEATURES)).dtype, torch.is_grad_enabled()))
            return {"error": 1.0}

        config = replace(PLAIN, precision="bf16", epochs=20)
        run = train(tmp_path, config, loss=loss, evaluate=evaluate)
        assert dtypes == {torch.bfloat16} and evaluated == {(torch.bfloat16, False)}
        assert {tensor.dtype for tensor in run.state["model"].values()} == {torch.float32}
        assert run.losses[-1] < run.losses[0] / 2

    @pytest.mark.parametrize(
        "precision, allowed", [("tf32", True), ("fp32", False), ("bf16", False)]
    )
    def test_only_tf32_allows_products_in_tf32(self, tmp_path, precision, allowed):
        backends = torch.backends.cuda.matmul, torch.backends.cudnn
        before = [backend.allow_tf32 for backend in backends]
        try:
            for backend in backends:
                backend.allow_tf32 = not allowed
            train(tmp_path, replace(PLAIN, precision=precision, epochs=1))
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.allow_tf32 = value

    def test_fp16_clips_unscaled_gradients(self, tmp_path):
        changes = sgd(lr=0.5)
        before = flat(changes["model"])
        config = replace(PLAIN, lr=0.5, epochs=1, clip_norm=0.001, precision="fp16")
        small = lambda model, batch: mse(model, batch) * 0.01  # noqa: E731
        train(tmp_path, config, dataset=Points(samples=8), loss=small, **changes)
        moved = (flat(changes["model"]) - before).norm().item()
        assert moved / 0.5 == pytest.approx(0.001, rel=1e-3)

    def test_fp16_skips_steps_that_overflow(self, tmp_path):
        # A gradient of 2 ** 5 times the initial scale, 2 ** 16, overflows fp16.
        config = replace(PLAIN, precision="fp16", lr=0.001)
        run = train(tmp_path, config, loss=lambda model, batch: mse(model, batch) * 2**9)
        assert not run.outcome.diverged
        assert run.state["scaler"]["scale"] < 2**16
        assert all(t.isfinite().all() for t in run.state["model"].values())


class TestFiles:
    def test_metrics_has_lines_every_log_steps_and_epoch(self, tmp_path):
        run = train(tmp_path, replace(CONFIG, eval_epochs=3))
        logged = [(line["step"], line["epoch"]) for line in run.lines if "loss" in line]
        assert logged == [
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

    def test_logged_loss_is_the_mean_since_the_previous_line(self, tmp_path):
        every = train(tmp_path / "every", replace(CONFIG, log_steps=1)).losses
        third = train(tmp_path / "third", replace(CONFIG, log_steps=3)).losses
        means = [sum(every[i : i + 3]) / 3 for i in range(0, 12, 3)]
        assert third == pytest.approx(means, rel=1e-6)

    def test_progress_has_step_rate_and_newest_metrics(self, tmp_path):
        run = train(tmp_path)
        progress = run.json("progress.json")
        assert (progress["step"], progress["steps"]) == (12, 12)
        assert progress["steps_per_second"] > 0
        assert progress["shown"] == {"loss": run.losses[-1], **run.outcome.metrics}

    def test_progress_before_the_first_step_is_0(self, tmp_path):
        with pytest.raises(Crash):
            train(tmp_path, loss=CrashAt(0))
        progress = json.loads((tmp_path / "progress.json").read_text())
        assert (progress["step"], progress["steps"]) == (0, 12)
        assert progress["steps_per_second"] is None


IN_STEPS = replace(CONFIG, epochs=None, steps=10, warmup_epochs=0, warmup_steps=3)


class TestSteps:
    """Runs whose length is given in steps; 3 steps per epoch."""

    def test_run_in_steps_equals_the_run_in_epochs(self, tmp_path, uninterrupted):
        assert_same_run(train(tmp_path, replace(IN_STEPS, steps=12)), uninterrupted)

    def test_last_epoch_may_be_incomplete(self, tmp_path):
        run = train(tmp_path, IN_STEPS)
        logged = [(line["step"], line["epoch"]) for line in run.lines if "loss" in line]
        assert logged[-3:] == [(8, 2.6667), (9, 3.0), (10, 3.3333)]
        evaluations = [line["step"] for line in run.lines if "evaluation" in line]
        assert evaluations == [3, 6, 9, 10]
        assert (run.outcome.steps, run.lines[-1]["epoch"]) == (10, 3.3333)

    def test_run_may_be_a_fraction_of_an_epoch(self, tmp_path):
        samples = Points(samples=8 * 1000)
        run = train(tmp_path, replace(IN_STEPS, eval_steps=4), dataset=samples)
        evaluated = [(line["step"], line["epoch"]) for line in run.lines if "evaluation" in line]
        assert evaluated == [(4, 0.004), (8, 0.008), (10, 0.01)]
        assert run.json("progress.json")["steps"] == 10

    def test_eval_steps_logs_a_line_before_each_evaluation(self, tmp_path):
        run = train(tmp_path, replace(IN_STEPS, eval_steps=5, log_steps=100))
        kinds = [(line["step"], "loss" in line) for line in run.lines]
        assert kinds == [
            (3, True), (5, True), (5, False), (6, True), (9, True), (10, True), (10, False),
        ]  # fmt: skip

    def test_divergence_is_detected_at_the_last_step(self, tmp_path):
        run = train(tmp_path, replace(IN_STEPS, eval_steps=100, log_steps=100), loss=NaNFrom(9))
        assert run.outcome.diverged and run.outcome.steps == 10

    @pytest.mark.parametrize("step", [5, 6, 9], ids=lambda step: f"in step {step + 1}")
    def test_run_in_steps_resumes_bit_identically(self, tmp_path, step):
        config = replace(IN_STEPS, eval_steps=4, schedule="fms-fsdp", warmup_steps=0)
        uninterrupted = train(tmp_path / "uninterrupted", config)
        with pytest.raises(Crash):
            train(tmp_path / "crashed", config, loss=CrashAt(step))
        assert_same_run(train(tmp_path / "crashed", config, weights=99), uninterrupted)


class TestOutcome:
    def test_outcome_has_the_last_and_the_best_evaluation(self, tmp_path):
        errors = iter([3.0, 1.0, 2.0, 2.5])
        run = train(tmp_path, evaluate=lambda model: {"error": next(errors)})
        assert run.outcome.metrics == {"error": 2.5}
        assert run.outcome.best == {"error": 1.0, "step": 6}
        assert (run.outcome.steps, run.outcome.diverged) == (12, False)

    def test_best_evaluation_is_the_first_of_equal_ones(self, tmp_path):
        errors = iter([3.0, 1.0, 1.0, 2.5])
        run = train(tmp_path, evaluate=lambda model: {"error": next(errors)})
        assert run.outcome.best == {"error": 1.0, "step": 6}

    def test_selection_metric_may_be_higher_is_better(self, tmp_path):
        scores = iter([3.0, 1.0, 7.0, 2.5])
        run = train(
            tmp_path,
            evaluate=lambda model: {"top1": next(scores)},
            selection_metric=("top1", "higher"),
        )
        assert run.outcome.best == {"top1": 7.0, "step": 9}


def test_async_checkpoints_of_an_unsharded_run_are_files(tmp_path):
    run = train(tmp_path, PLAIN, where={"async_checkpoints": True})
    assert run.checkpoints == ["step_00000010.pt", "step_00000012.pt"]


class TestRefusedSettings:
    def test_fit_refuses_a_batch_that_does_not_divide(self, tmp_path):
        message = r"a batch of 10 does not divide evenly over 1 processes and 3 accumulation steps"
        with pytest.raises(ValueError, match=message):
            train(tmp_path, replace(CONFIG, batch=10))

    def test_fit_refuses_a_batch_larger_than_the_data_set(self, tmp_path):
        with pytest.raises(ValueError, match="a batch of 32 is more than the 26 samples"):
            train(tmp_path, replace(CONFIG, batch=32))

    def test_fit_refuses_bf16_params_without_sharding(self, tmp_path):
        with pytest.raises(ValueError, match="'bf16-params' needs a run that is sharded over"):
            train(tmp_path, replace(CONFIG, precision="bf16-params"))

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
                "schedule is 'linear'; expected 'cosine', 'constant', 'step' or 'fms-fsdp'",
            ),
            (
                {"precision": "fp8"},
                "precision is 'fp8'; expected 'fp32', 'tf32', 'bf16', 'fp16', 'bf16-p",
            ),
            (
                {"betas": (0.9, 1.0)},
                r"betas \(0.9, 1.0\): expected .* two numbers from 0 to below 1",
            ),
            ({"weight_decay": -0.1}, "weight_decay -0.1 and betas"),
            ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a positive number or None"),
            ({"ema_decay": 1.0}, "ema_decay is 1.0; expected a number between 0 and 1"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_config_refuses_settings_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)


class TestOwnership:
    """Context.check_ownership is called before every write of fingerprint and checkpoint."""

    def test_check_ownership_before_fingerprint_and_checkpoint_writes(self, tmp_path):
        existing = []
        folder = tmp_path / "checkpoints"

        def check_ownership():
            existing.append(sorted(path.stem[-2:] for path in folder.glob("*")))

        train(tmp_path, where={"check_ownership": check_ownership})
        before_fingerprints, before_checkpoints = [[]] * BATCHES, [[], ["05"], ["05", "10"]]
        assert existing == before_fingerprints + before_checkpoints

    @pytest.mark.parametrize(
        "writes, fingerprints, checkpoints",
        [(1, 1, []), (BATCHES + 1, BATCHES, ["step_00000005.pt"])],
        ids=["fingerprint", "checkpoint"],
    )
    def test_run_that_lost_its_lease_writes_nothing(
        self, tmp_path, writes, fingerprints, checkpoints
    ):
        answers = iter([*[None] * writes, RuntimeError("taken over")])

        def check_ownership():
            if (error := next(answers)) is not None:
                raise error

        with pytest.raises(RuntimeError, match="taken over"):
            train(tmp_path, where={"check_ownership": check_ownership})
        written = json.loads((tmp_path / "fingerprint.json").read_text())["batches"]
        assert len(written) == fingerprints
        assert [path.name for path in tmp_path.glob("checkpoints/*")] == checkpoints
