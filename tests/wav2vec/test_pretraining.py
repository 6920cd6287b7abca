"""Pretraining: determinism, equal fingerprints of both arms, logs, divergence, two processes."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.optim.fp16_optimizer import FP16Optimizer

from dyt import Norm
from dyt_wav2vec import fairseq_api, fairseq_config, pretraining
from dyt_wav2vec.evaluation import evaluate
from dyt_wav2vec.manifests import Manifest
from dyt_wav2vec.trainer import Trainer
from matched.signals import Interrupted, watch_signals

from ..processes import run as run_two_processes
from .problem import (
    CONFIG,
    NO_LAYERDROP,
    OWN,
    UNEVEN,
    Pretrained,
    assert_same_run,
    before_update,
    context,
    pretrained,
    raw_bytes,
    request_stop,
    set_weight_to_nan,
)

SCRIPT = Path(__file__).with_name("two_processes_speech.py")


@pytest.fixture(scope="module")
def plain(prepared, tmp_path_factory):
    """Pretraining of the LN arm."""
    return pretrained(tmp_path_factory.mktemp("plain"), prepared, replace(CONFIG, norm=OWN))


class TestDeterminism:
    def test_run_does_not_depend_on_earlier_draws(self, prepared, uninterrupted, plain, tmp_path):
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        assert_same_run(pretrained(tmp_path, prepared), uninterrupted)

    @pytest.mark.slow
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_num_workers_do_not_change_the_run(
        self, prepared, uninterrupted, tmp_path, num_workers
    ):
        assert_same_run(pretrained(tmp_path, prepared, num_workers=num_workers), uninterrupted)

    def test_seed_changes_weights_and_batches(self, prepared, uninterrupted, tmp_path):
        other = pretrained(tmp_path, prepared, replace(CONFIG, seed=4, updates=4))
        one, two = other.json("fingerprint.json"), uninterrupted.json("fingerprint.json")
        assert one["weights"] != two["weights"]
        assert not set(one["batches"]) & set(two["batches"])


class TestArms:
    def test_arms_have_same_fingerprint(self, uninterrupted, plain):
        dyt, ln = uninterrupted.json("fingerprint.json"), plain.json("fingerprint.json")
        assert dyt == ln
        assert len(set(dyt["batches"])) == 4

    def test_arms_differ_from_first_update(self, uninterrupted, plain):
        assert uninterrupted.steps[0]["loss"] != plain.steps[0]["loss"]
        assert uninterrupted.outcome.metrics["loss"] != plain.outcome.metrics["loss"]

    def test_every_alpha_is_logged_and_trained(self, uninterrupted, plain):
        assert not any("alpha" in line for line in plain.lines)
        first, *_, last = (line["alpha"] for line in uninterrupted.steps)
        blocks = [
            f"encoder.layers.{n}.{part}_layer_norm"
            for n in (0, 1)
            for part in ("self_attn", "final")
        ]
        assert sorted(last) == sorted([*blocks, "encoder.layer_norm", "layer_norm"])
        assert all(alpha == pytest.approx(0.5, abs=0.05) for alpha in last.values())
        assert all(first[path] != alpha != 0.5 for path, alpha in last.items())

    def test_alpha_starts_at_alpha0(self, prepared, tmp_path):
        config = replace(CONFIG, norm=Norm.dyt(alpha0=0.8), updates=1, warmup_updates=0, lr=1e-9)
        (line,) = pretrained(tmp_path, prepared, config).steps
        assert [*line["alpha"].values()] == pytest.approx([0.8] * 6, abs=1e-6)

    def test_checkpoint_contains_alpha_of_dyt_arm_only(self, uninterrupted, plain):
        names = {name for name in uninterrupted.state["model"] if "norm.alpha" in name}
        assert len(names) == 6
        assert set(uninterrupted.state["model"]) - names == set(plain.state["model"])


class TestMetricsLog:
    def test_line_every_log_updates_and_at_the_end(self, uninterrupted):
        assert [line["step"] for line in uninterrupted.steps] == [2, 4, 6, 7]
        assert [line["epoch"] for line in uninterrupted.steps] == [0.6667, 1.3333, 2.0, 2.3333]
        assert list(uninterrupted.evaluations) == [4, 7]
        assert uninterrupted.outcome.metrics == uninterrupted.evaluations[7]
        assert uninterrupted.json("progress.json")["steps"] == 7

    def test_best_evaluation_has_the_smallest_loss(self, uninterrupted, plain):
        for run in (uninterrupted, plain):
            best = min(run.evaluations, key=lambda step: run.evaluations[step]["loss"])
            assert run.outcome.best == {**run.evaluations[best], "step": best}

    def test_evaluation_lines_have_alpha_of_the_dyt_arm(self, uninterrupted, plain):
        lines = [line for line in uninterrupted.lines if "evaluation" in line]
        model = uninterrupted.state["model"]
        alphas = {n.removesuffix(".alpha"): t.item() for n, t in model.items() if "norm.alpha" in n}
        assert lines[-1]["alpha"] == uninterrupted.steps[-1]["alpha"] == alphas
        assert len(lines) == 2 and lines[0]["alpha"].keys() == alphas.keys()
        assert not any("alpha" in line for line in plain.lines)

    def test_performance_has_utterances_per_second(self, uninterrupted):
        text = (uninterrupted.directory / "performance.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["step"] for line in lines] == [line["step"] for line in uninterrupted.steps]
        assert all(line.keys() == {"step", "time", "samples_per_second"} for line in lines)
        assert all(line["samples_per_second"] > 0 for line in lines)

    def test_peak_memory_is_what_fairseq_measured(self):
        """fairseq logs the rest of the GPU's memory, of a stand-in here, and resets the peak."""
        gpu = SimpleNamespace(cuda=True, cuda_env=SimpleNamespace(total_memory_in_GB=80.0))
        with fairseq_api.metrics.aggregate("train"):
            fairseq_api.metrics.log_scalar("gb_free", 78.5, priority=1500, round=1, weight=0)
        assert Trainer.peak_memory_mib(gpu) == 1536.0
        assert Trainer.peak_memory_mib(SimpleNamespace(cuda=False)) == 0.0

    def test_lr_warms_up_and_decays_to_0(self, prepared, tmp_path):
        run = pretrained(tmp_path, prepared, replace(CONFIG, log_updates=1, eval_updates=99))
        peak = CONFIG.lr
        rates = [line["lr"] for line in run.steps]
        # The peak is reached after ``warmup_updates``, and 0 after ``updates``.
        assert rates == pytest.approx(
            [0, peak / 3, 2 * peak / 3, peak, 0.75 * peak, 0.5 * peak, 0.25 * peak]
        )

    def test_line_is_mean_since_the_last_line(self, prepared, uninterrupted, tmp_path):
        run = pretrained(tmp_path, prepared, replace(CONFIG, log_updates=1))
        pairs = list(zip(run.steps[::2], run.steps[1::2], strict=False))
        assert len(pairs) == 3
        for (one, other), both in zip(pairs, uninterrupted.steps, strict=False):
            assert both["gradient_norm"] == pytest.approx(
                (one["gradient_norm"] + other["gradient_norm"]) / 2
            )
            for key in ("loss", "contrastive", "accuracy"):
                low, high = sorted([one[key], other[key]])
                assert low <= both[key] <= high
        assert raw_bytes(run.state["model"]) == raw_bytes(uninterrupted.state["model"])

    @pytest.mark.parametrize("epochs, steps", [(2, 6), (3, 7)])
    def test_training_ends_after_epochs(self, prepared, uninterrupted, tmp_path, epochs, steps):
        config = replace(CONFIG, epochs=epochs)
        run = pretrained(tmp_path, prepared, config)
        assert run.outcome.steps == run.json("progress.json")["steps"] == steps
        assert run.json("progress.json")["step"] == steps
        assert list(run.evaluations)[-1] == steps
        # The schedule still ends at ``updates``.
        assert run.steps == [line for line in uninterrupted.steps if line["step"] <= steps]


def failing(message):
    """Return a function that raises an error of fairseq's trainer."""

    def fail(trainer, samples):
        raise FloatingPointError(message)

    return fail


class TestDivergence:
    def check(self, run, uninterrupted):
        """Check that the run ended after update 5, with the validation after update 4."""
        assert run.outcome.diverged and run.outcome.steps == 5
        assert run.outcome.metrics == uninterrupted.evaluations[4]
        assert run.outcome.best == {**uninterrupted.evaluations[4], "step": 4}
        assert run.lines == [line for line in uninterrupted.lines if line["step"] <= 5]
        assert not list(run.directory.rglob("crash*"))

    def test_nan_gradients_are_a_divergence(self, prepared, uninterrupted, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # fairseq would create its checkpoint folder here
        with before_update(5, set_weight_to_nan):
            run = pretrained(tmp_path / "run", prepared)
        self.check(run, uninterrupted)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_minimum_loss_scale_is_a_divergence(self, prepared, uninterrupted, tmp_path, caplog):
        message = "Minimum loss scale reached (0.0001). Your loss is probably exploding. Try"
        with caplog.at_level("INFO", logger="matched"), before_update(5, failing(message)):
            run = pretrained(tmp_path, prepared)
        self.check(run, uninterrupted)
        assert f"diverged after update 5: {message}" in caplog.messages

    @pytest.mark.slow
    def test_fp16_loss_scale_of_fairseq_detects_divergence(self, prepared, tmp_path):
        with before_update(5, set_weight_to_nan):
            run = pretrained(tmp_path, prepared, replace(CONFIG, precision="fp16", updates=60))
        assert run.outcome.diverged and run.outcome.steps == 5
        assert run.outcome.best["step"] == 4

    def test_restart_after_divergence_gives_same_result(self, prepared, tmp_path):
        with before_update(5, set_weight_to_nan):
            once = pretrained(tmp_path / "run", prepared)
        before = (once.lines, raw_bytes(once.state))
        again = pretrained(tmp_path / "run", prepared)
        assert again.outcome == once.outcome
        assert (again.lines, raw_bytes(again.state)) == before

    def test_nonfinite_validation_is_a_divergence(self, prepared, tmp_path, caplog):
        config = replace(CONFIG, norm=OWN, lr=1e38, warmup_updates=0, updates=4, eval_updates=1)
        with caplog.at_level("INFO", logger="matched"):
            run = pretrained(tmp_path, prepared, config)
        assert run.outcome.diverged
        assert run.outcome.steps < 4
        assert run.outcome.metrics == {} == run.outcome.best
        assert "diverged" in caplog.text

    def test_inconsistent_gradients_raise_instead_of_diverging(self, prepared, tmp_path):
        message = "Fatal error: gradients are inconsistent between workers. Try"
        with before_update(2, failing(message)), pytest.raises(FloatingPointError, match=message):
            pretrained(tmp_path, prepared)


class TestIsolation:
    def test_pretrain_emits_no_warnings(self, prepared, tmp_path, caplog):
        with warnings.catch_warnings(record=True) as recorded, caplog.at_level("WARNING"):
            warnings.simplefilter("always")
            pretrained(tmp_path / "one", prepared, replace(CONFIG, updates=4))
            assert caplog.messages == []
            with before_update(2, set_weight_to_nan):
                pretrained(tmp_path / "other", prepared)
        assert [str(warning.message) for warning in recorded] == []
        # fairseq logs the origin of the NaN.
        assert {r.name for r in caplog.records} == {"fairseq.nan_detector"}

    def test_isolated_state_resets_fairseqs_meters(self, prepared, tmp_path):
        from fairseq.logging import metrics

        with before_update(2, failing("gradients")), pytest.raises(FloatingPointError):
            pretrained(tmp_path / "failed", prepared)
        metrics.log_scalar("loss", 1e9)
        metrics.get_meters("train")["loss"].update(1e9)
        small = replace(CONFIG, updates=2, eval_updates=2, warmup_updates=0)
        run = pretrained(tmp_path / "run", prepared, small)
        assert run.steps[0]["loss"] < 100
        assert metrics.get_meter("train", "loss").avg < 100

    @pytest.mark.slow
    def test_separate_process_gives_the_same_run(self, prepared, uninterrupted, tmp_path):
        code = "import sys; from problem import *; pretrained(*map(Path, sys.argv[1:]))"
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run", prepared],
            check=True,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parent), "OMP_NUM_THREADS": "1"},
        )
        alone = Pretrained(directory=tmp_path / "run", outcome=uninterrupted.outcome)
        assert_same_run(alone, uninterrupted)

    def test_pretrain_leaves_logging_unchanged(self, prepared, tmp_path):
        root = logging.getLogger()
        before = (root.handlers[:], root.level, root.manager.disable)
        pretrained(tmp_path, prepared, replace(CONFIG, updates=4))
        assert (root.handlers[:], root.level, root.manager.disable) == before


def test_files_of_min_sample_size_are_long_enough(tmp_path, monkeypatch):
    manifest = Manifest(root=tmp_path, train={"a.flac": 8000}, valid={"b.flac": 8000, "c": 7})
    monkeypatch.setattr(pretraining, "load_manifest", lambda *_: manifest)
    place = context(tmp_path, tmp_path)
    assert pretraining.write_manifest(place, CONFIG) == manifest.checksum
    assert CONFIG.min_sample_size == 8000
    longer = replace(CONFIG, min_sample_size=8001)
    with pytest.raises(ValueError, match=r"no file of train\.tsv has 8001 samples"):
        pretraining.write_manifest(place, longer)


class TestMicroBatches:
    def test_refuses_world_size_that_does_not_divide(self, prepared, tmp_path):
        message = (
            "micro_batches_per_update is 3, which cannot be divided over 2 processes; expected a "
            "number of processes that divides it"
        )
        place = context(tmp_path, prepared, world_size=2)
        with pytest.raises(ValueError, match=message):
            fairseq_config.runtime_overrides(
                replace(CONFIG, micro_batches_per_update=3), place, tmp_path, torch.device("cpu")
            )

    @pytest.mark.parametrize("world_size", [1, 2, 4])
    def test_loss_scale_grows_at_the_same_pace(self, prepared, tmp_path, world_size):
        """fairseq divides the updates between two increases by the micro-batches of an update."""
        config = replace(CONFIG, precision="fp16", micro_batches_per_update=4)
        place, cpu = context(tmp_path, prepared, world_size=world_size), torch.device("cpu")
        cfg = fairseq_config.merged_config(
            fairseq_config.training_overrides(config),
            fairseq_config.runtime_overrides(config, place, tmp_path, cpu),
        )
        optimizer = FP16Optimizer.build_optimizer(cfg, [torch.nn.Parameter(torch.zeros(2))])
        assert optimizer.scaler.scale_window == 2**14 / 4
        assert cfg.distributed_training.distributed_world_size == world_size

    @pytest.mark.parametrize("kept", [[0], [0, 1]])
    def test_train_step_drops_empty_micro_batches(self, monkeypatch, kept):
        """fairseq would not count the utterances of the full ones."""
        samples = [{"id": number} for number in kept]
        steps = []
        monkeypatch.setattr(
            fairseq_api.Trainer, "train_step", lambda self, batches, oom: steps.append(batches)
        )
        for padded in ([*samples, {}], [*samples, {}, {}], samples, [{}, {}]):
            Trainer.train_step(object.__new__(Trainer), padded)
        assert steps == [samples, samples, samples, [{}]]


@pytest.mark.slow
class TestTwoProcesses:
    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, prepared, tmp_path_factory):
        """Same pretraining in one process."""
        return pretrained(tmp_path_factory.mktemp("alone"), prepared, NO_LAYERDROP)

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, prepared, tmp_path_factory):
        """Folder with runs of two processes; one process started "from-one"."""
        folder = tmp_path_factory.mktemp("two")
        with watch_signals(600, print), before_update(4, request_stop), pytest.raises(Interrupted):
            pretrained(folder / "from-one", prepared, NO_LAYERDROP, signature="from-one")
        run_two_processes(SCRIPT, prepared, folder)
        return folder

    def check(self, directory, alone):
        run = Pretrained(directory=directory)
        assert run.json("fingerprint.json") == alone.json("fingerprint.json")
        assert len(run.lines) == len(alone.lines)
        for one, other in zip(run.lines, alone.lines, strict=True):
            for line in (one, other):
                line.update(line.pop("evaluation", {}), **line.pop("alpha", {}))
            assert one == pytest.approx(other, rel=1e-4)
        for name, tensor in alone.state["model"].items():
            torch.testing.assert_close(run.state["model"][name], tensor, rtol=1e-3, atol=2e-5)

    @pytest.mark.parametrize("name", ["validated", "loaded", "from-one"])
    def test_two_processes_match_one(self, pair, alone, name):
        self.check(pair / name, alone)

    def test_two_processes_validate_as_one(self, pair, prepared, tmp_path):
        results = []
        with before_update(0, lambda trainer, _: results.append(evaluate(trainer, 3))):
            pretrained(tmp_path, prepared, replace(NO_LAYERDROP, updates=4))
        for rank in range(2):
            metrics, passes = json.loads((pair / "logs" / f"evaluation-{rank}.txt").read_text())
            assert metrics == pytest.approx(results[0][0], rel=1e-12)
            assert passes == pytest.approx(results[0][1], rel=1e-12)

    def test_uneven_micro_batches_match_one_process(self, pair, prepared, tmp_path):
        self.check(pair / "filled", pretrained(tmp_path, prepared, UNEVEN))

    def test_stop_request_on_one_rank_stops_both(self, pair, prepared, alone, tmp_path):
        for rank in range(2):
            lines = (pair / "logs" / f"asked-{rank}.txt").read_text().splitlines()
            # Requested in update 2, agreed on at its end, effective at the end of the next one.
            assert lines[-2] == "interrupted after step 3 of 7, which is saved"
            assert lines[-1].startswith("ended by Interrupted")
        shutil.copytree(pair / "asked", tmp_path / "run")
        pretrained(tmp_path / "run", prepared, NO_LAYERDROP, signature="asked")
        self.check(tmp_path / "run", alone)

    def test_nan_on_one_rank_is_a_divergence_on_both(self, pair):
        run = Pretrained(directory=pair / "poisoned")
        assert max(line["step"] for line in run.lines) == 4
        assert run.state["extra_state"]["progress"]["diverged"]
        for rank in range(2):
            log_text = (pair / "logs" / f"poisoned-{rank}.txt").read_text()
            assert "diverged after update 5" in log_text and "ended by" not in log_text

    def test_indivisible_micro_batches_are_refused_on_both_ranks(self, pair):
        for rank in range(2):
            log_text = (pair / "logs" / f"undivided-{rank}.txt").read_text()
            assert log_text.splitlines()[-1].startswith(
                "ended by ValueError: micro_batches_per_update is 3"
            )
