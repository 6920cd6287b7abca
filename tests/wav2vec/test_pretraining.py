"""What a pretraining leaves: the same each time, alike for both arms, a result if it diverges."""

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

import numpy as np
import pytest
import torch

from dyt import Norm
from dyt_wav2vec import fairseq_config
from dyt_wav2vec.evaluation import evaluate
from matched.signals import Interrupted, watch_signals

from ..training.processes import run as together
from .problem import (
    CONFIG,
    DIVIDED,
    FILLED,
    OWN,
    Pretrained,
    ask,
    assert_same_run,
    before_update,
    bits,
    context,
    poisoned,
    pretrained,
)

SCRIPT = Path(__file__).with_name("two_processes_speech.py")


@pytest.fixture(scope="module")
def plain(prepared, tmp_path_factory):
    """The pretraining of the other arm."""
    return pretrained(tmp_path_factory.mktemp("plain"), prepared, replace(CONFIG, norm=OWN))


class TestDeterminism:
    def test_two_runs_are_the_same_whatever_was_drawn_before(
        self, prepared, undisturbed, plain, tmp_path
    ):
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        assert_same_run(pretrained(tmp_path, prepared), undisturbed)

    @pytest.mark.slow
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_loading_in_other_processes_changes_nothing(
        self, prepared, undisturbed, tmp_path, num_workers
    ):
        assert_same_run(pretrained(tmp_path, prepared, num_workers=num_workers), undisturbed)

    def test_other_seeds_are_other_runs(self, prepared, undisturbed, tmp_path):
        other = pretrained(tmp_path, prepared, replace(CONFIG, seed=4, updates=4))
        mine, theirs = other.json("fingerprint.json"), undisturbed.json("fingerprint.json")
        assert mine["weights"] != theirs["weights"]
        assert not set(mine["batches"]) & set(theirs["batches"])


class TestArms:
    def test_both_start_from_the_same_weights_and_see_the_same_batches(self, undisturbed, plain):
        mine, theirs = undisturbed.json("fingerprint.json"), plain.json("fingerprint.json")
        assert mine == theirs
        assert len(set(mine["batches"])) == 4

    def test_they_differ_from_the_first_update_on(self, undisturbed, plain):
        assert undisturbed.steps[0]["loss"] != plain.steps[0]["loss"]
        assert undisturbed.outcome.metrics["loss"] != plain.outcome.metrics["loss"]

    def test_every_alpha_is_told_and_moves(self, undisturbed, plain):
        assert not any("alpha" in line for line in plain.lines)
        first, *_, last = (line["alpha"] for line in undisturbed.steps)
        blocks = [
            f"encoder.layers.{n}.{part}_layer_norm"
            for n in (0, 1)
            for part in ("self_attn", "final")
        ]
        assert sorted(last) == sorted([*blocks, "encoder.layer_norm", "layer_norm"])
        assert all(alpha == pytest.approx(0.5, abs=0.05) for alpha in last.values())
        assert all(first[path] != alpha != 0.5 for path, alpha in last.items())

    def test_alpha_begins_where_the_config_says(self, prepared, tmp_path):
        config = replace(CONFIG, norm=Norm.dyt(alpha0=0.8), updates=1, warmup_updates=0, lr=1e-9)
        (line,) = pretrained(tmp_path, prepared, config).steps
        assert [*line["alpha"].values()] == pytest.approx([0.8] * 6, abs=1e-6)

    def test_what_is_saved_is_the_model_with_that_norm(self, undisturbed, plain):
        names = {name for name in undisturbed.state["model"] if "norm.alpha" in name}
        assert len(names) == 6
        assert set(undisturbed.state["model"]) - names == set(plain.state["model"])


class TestLines:
    def test_there_is_one_every_so_many_updates_and_at_the_end(self, undisturbed):
        assert [line["step"] for line in undisturbed.steps] == [2, 4, 6, 7]
        assert [line["epoch"] for line in undisturbed.steps] == [0.6667, 1.3333, 2.0, 2.3333]
        assert list(undisturbed.evaluations) == [4, 7]
        assert undisturbed.outcome.metrics == undisturbed.evaluations[7]
        assert undisturbed.json("progress.json")["steps"] == 7

    def test_the_rate_rises_from_0_and_falls_to_0(self, prepared, tmp_path):
        run = pretrained(tmp_path, prepared, replace(CONFIG, log_updates=1, eval_updates=99))
        peak = CONFIG.lr
        told = [line["lr"] for line in run.steps]
        # After ``warmup_updates`` it is at its peak, and after ``updates`` at 0.
        assert told == pytest.approx(
            [0, peak / 3, 2 * peak / 3, peak, 0.75 * peak, 0.5 * peak, 0.25 * peak]
        )

    def test_a_line_is_the_mean_of_the_updates_since_the_last_one(
        self, prepared, undisturbed, tmp_path
    ):
        run = pretrained(tmp_path, prepared, replace(CONFIG, log_updates=1))
        pairs = list(zip(run.steps[::2], run.steps[1::2], strict=False))
        assert len(pairs) == 3
        for (one, other), both in zip(pairs, undisturbed.steps, strict=False):
            assert both["gradient_norm"] == pytest.approx(
                (one["gradient_norm"] + other["gradient_norm"]) / 2
            )
            for key in ("loss", "contrastive", "accuracy"):
                low, high = sorted([one[key], other[key]])
                assert low <= both[key] <= high
        assert bits(run.state["model"]) == bits(undisturbed.state["model"])

    @pytest.mark.parametrize("epochs, steps", [(2, 6), (3, 7)])
    def test_it_ends_after_so_many_epochs(self, prepared, undisturbed, tmp_path, epochs, steps):
        config = replace(CONFIG, epochs=epochs)
        run = pretrained(tmp_path, prepared, config)
        assert run.outcome.steps == run.json("progress.json")["steps"] == steps
        assert run.json("progress.json")["step"] == steps
        assert list(run.evaluations)[-1] == steps
        # The schedule is that of all updates.
        assert run.steps == [line for line in undisturbed.steps if line["step"] <= steps]


def failing(message):
    """As fairseq's trainer raises it."""

    def fail(trainer, samples):
        raise FloatingPointError(message)

    return fail


class TestDivergence:
    def check(self, run, undisturbed):
        """It is as if it had ended after update 5, with the validation after update 4."""
        assert run.outcome.diverged and run.outcome.steps == 5
        assert run.outcome.metrics == undisturbed.evaluations[4]
        assert run.outcome.best == {**undisturbed.evaluations[4], "step": 4}
        assert run.lines == [line for line in undisturbed.lines if line["step"] <= 5]
        assert not list(run.directory.rglob("crash*"))

    def test_gradients_that_are_no_numbers(self, prepared, undisturbed, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where fairseq's folder for checkpoints would be
        with before_update(5, poisoned):
            run = pretrained(tmp_path / "run", prepared)
        self.check(run, undisturbed)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_a_loss_that_16_bits_cannot_hold(self, prepared, undisturbed, tmp_path, caplog):
        said = "Minimum loss scale reached (0.0001). Your loss is probably exploding. Try"
        with caplog.at_level("INFO", logger="matched"), before_update(5, failing(said)):
            run = pretrained(tmp_path, prepared)
        self.check(run, undisturbed)
        assert f"diverged after update 5: {said}" in caplog.messages

    @pytest.mark.slow
    def test_16_bits_by_fairseqs_own_loss_scale(self, prepared, tmp_path):
        with before_update(5, poisoned):
            run = pretrained(tmp_path, prepared, replace(CONFIG, precision="fp16", updates=60))
        assert run.outcome.diverged and run.outcome.steps == 5
        assert run.outcome.best["step"] == 4

    def test_started_again_it_gives_the_same_result(self, prepared, tmp_path):
        with before_update(5, poisoned):
            once = pretrained(tmp_path / "run", prepared)
        before = (once.lines, bits(once.state))
        again = pretrained(tmp_path / "run", prepared)
        assert again.outcome == once.outcome
        assert (again.lines, bits(again.state)) == before

    def test_weights_that_are_no_numbers_show_in_validation(self, prepared, tmp_path, caplog):
        config = replace(CONFIG, norm=OWN, lr=1e38, warmup_updates=0, updates=4, eval_updates=1)
        with caplog.at_level("INFO", logger="matched"):
            run = pretrained(tmp_path, prepared, config)
        assert run.outcome.diverged
        assert run.outcome.steps < 4
        assert run.outcome.metrics == {} == run.outcome.best
        assert "diverged" in caplog.text

    def test_that_processes_disagree_is_no_divergence(self, prepared, tmp_path):
        said = "Fatal error: gradients are inconsistent between workers. Try"
        with before_update(2, failing(said)), pytest.raises(FloatingPointError, match=said):
            pretrained(tmp_path, prepared)


class TestNothingLeaks:
    def test_no_warning_is_heard(self, prepared, tmp_path, caplog):
        with warnings.catch_warnings(record=True) as heard, caplog.at_level("WARNING"):
            warnings.simplefilter("always")
            pretrained(tmp_path / "one", prepared, replace(CONFIG, updates=4))
            assert caplog.messages == []
            with before_update(2, poisoned):
                pretrained(tmp_path / "other", prepared)
        assert [str(warning.message) for warning in heard] == []
        # Where the NaN comes from is worth a line.
        assert {r.name for r in caplog.records} == {"fairseq.nan_detector"}

    def test_what_fairseq_measures_is_a_runs_own(self, prepared, tmp_path):
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
    def test_a_process_of_its_own_computes_the_same(self, prepared, undisturbed, tmp_path):
        code = "import sys; from problem import *; pretrained(*map(Path, sys.argv[1:]))"
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run", prepared],
            check=True,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parent), "OMP_NUM_THREADS": "1"},
        )
        alone = Pretrained(directory=tmp_path / "run", outcome=undisturbed.outcome)
        assert_same_run(alone, undisturbed)

    def test_the_logs_are_as_they_were(self, prepared, tmp_path):
        root = logging.getLogger()
        before = (root.handlers[:], root.level, root.manager.disable)
        pretrained(tmp_path, prepared, replace(CONFIG, updates=4))
        assert (root.handlers[:], root.level, root.manager.disable) == before


class TestDivision:
    def test_micro_batches_that_do_not_divide_are_refused(self, prepared, tmp_path):
        message = "the 3 micro-batches of an update cannot be divided over 2 processes; expected a"
        place = context(tmp_path, prepared, world_size=2)
        with pytest.raises(ValueError, match=message):
            fairseq_config.here(replace(CONFIG, shards=3), place, tmp_path, torch.device("cpu"))


@pytest.mark.slow
class TestTwoProcesses:
    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, prepared, tmp_path_factory):
        """The same pretraining by one process."""
        return pretrained(tmp_path_factory.mktemp("alone"), prepared, DIVIDED)

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, prepared, tmp_path_factory):
        """The folder of what two processes have pretrained; "from-one" was begun by one."""
        folder = tmp_path_factory.mktemp("two")
        with watch_signals(600, print), before_update(4, ask), pytest.raises(Interrupted):
            pretrained(folder / "from-one", prepared, DIVIDED, signature="from-one")
        together(SCRIPT, prepared, folder)
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

    @pytest.mark.parametrize("name", ["whole", "loaded", "from-one"])
    def test_they_give_what_one_gives(self, pair, alone, name):
        self.check(pair / name, alone)

    def test_they_validate_as_one_does(self, pair, prepared, tmp_path):
        found = []
        with before_update(0, lambda trainer, _: found.append(evaluate(trainer, 3))):
            pretrained(tmp_path, prepared, replace(DIVIDED, updates=4))
        for rank in range(2):
            metrics, passes = json.loads((pair / "said" / f"validated-{rank}.txt").read_text())
            assert metrics == pytest.approx(found[0][0], rel=1e-12)
            assert passes == pytest.approx(found[0][1], rel=1e-12)

    def test_an_update_in_which_one_has_less_to_do_is_that_of_one(self, pair, prepared, tmp_path):
        self.check(pair / "filled", pretrained(tmp_path, prepared, FILLED))

    def test_both_stop_when_one_is_asked_and_one_process_goes_on(
        self, pair, prepared, alone, tmp_path
    ):
        for rank in range(2):
            said = (pair / "said" / f"asked-{rank}.txt").read_text().splitlines()
            # Asked in update 2, said at its end, done at the end of the next.
            assert said[-2] == "interrupted after step 3 of 7, which is saved"
            assert said[-1].startswith("ended by Interrupted")
        shutil.copytree(pair / "asked", tmp_path / "run")
        pretrained(tmp_path / "run", prepared, DIVIDED, signature="asked")
        self.check(tmp_path / "run", alone)

    def test_when_one_meets_a_nan_both_diverge(self, pair):
        run = Pretrained(directory=pair / "poisoned")
        assert max(line["step"] for line in run.lines) == 4
        assert run.state["extra_state"]["position"]["diverged"]
        for rank in range(2):
            said = (pair / "said" / f"poisoned-{rank}.txt").read_text()
            assert "diverged after update 5" in said and "ended by" not in said

    def test_what_does_not_divide_is_said_on_both(self, pair):
        for rank in range(2):
            said = (pair / "said" / f"undivided-{rank}.txt").read_text()
            assert said.splitlines()[-1].startswith("ended by ValueError: the 3 micro-batches of")
