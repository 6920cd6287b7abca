"""Resumed pretraining: bit-identical to an uninterrupted run."""

import itertools
import multiprocessing
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from dyt_wav2vec.preparation import prepare
from dyt_wav2vec.trainer import Trainer
from matched.signals import Interrupted, watch_signals

from ..messages import refused
from .problem import (
    CONFIG,
    SPEECH,
    Killed,
    Pretrained,
    assert_same_run,
    before_update,
    context,
    kill,
    pretrained,
    raw_bytes,
    request_stop,
)

FP16 = replace(CONFIG, precision="fp16")


def patched(name, method):
    """Replace a method of the trainer within this context."""
    return mock.patch.object(Trainer, name, method)


def killed_before(directory, speech, done, config=CONFIG, **where):
    with before_update(done, kill), pytest.raises(Killed):
        pretrained(directory, speech, config, **where)
    return Pretrained(directory=directory)


def stopped_in(directory, speech, done, config=CONFIG, **where):
    with watch_signals(600, print), before_update(done, request_stop), pytest.raises(Interrupted):
        pretrained(directory, speech, config, **where)
    return Pretrained(directory=directory)


# Epochs end after updates 3 and 6; lines are written after 2, 4, 6, 7; validation is after 4 and 7.
@pytest.mark.parametrize(
    "done",
    [2, 4, *(pytest.param(done, marks=pytest.mark.slow) for done in (0, 1, 3, 5))],
    ids=lambda done: f"in update {done + 1}",
)
def test_resume_after_stop_request_is_bit_identical(prepared, uninterrupted, tmp_path, done):
    run = stopped_in(tmp_path, prepared, done, checkpoint_steps=99)
    assert run.checkpoints == [f"step_{done + 1:08d}.pt"]
    assert_same_run(pretrained(tmp_path, prepared, checkpoint_steps=99), uninterrupted)


@pytest.mark.slow
def test_resume_after_every_update_is_bit_identical(prepared, uninterrupted, tmp_path):
    for done in range(6):
        stopped_in(tmp_path, prepared, done)
    assert_same_run(pretrained(tmp_path, prepared), uninterrupted)


# Checkpoints are after updates 3 and 6.
@pytest.mark.parametrize("done", [1, 5], ids=lambda done: f"in update {done + 1}")
def test_resume_after_kill_is_bit_identical(prepared, uninterrupted, tmp_path, done):
    killed_before(tmp_path, prepared, done)
    assert_same_run(pretrained(tmp_path, prepared), uninterrupted)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoints", "fingerprint.json", "lists", "metrics.jsonl", "performance.jsonl",
        "progress.json",
    }  # fmt: skip


@pytest.mark.slow
def test_resume_drops_half_written_metrics_line(prepared, uninterrupted, tmp_path):
    metrics = killed_before(tmp_path, prepared, 5).directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    assert_same_run(pretrained(tmp_path, prepared), uninterrupted)


@pytest.mark.parametrize("done", [3, 6], ids=["in the middle", "at the end"])
def test_resume_validates_if_stopped_before_validation(prepared, uninterrupted, tmp_path, done):
    run = stopped_in(tmp_path, prepared, done)
    assert run.checkpoints[-1] == f"step_{done + 1:08d}.pt"
    assert len(run.evaluations) == (done == 6)
    assert_same_run(pretrained(tmp_path, prepared), uninterrupted)


def test_finished_run_is_not_trained_again(prepared, uninterrupted, tmp_path):
    pretrained(tmp_path, prepared)
    # Neither an update nor a validation happens.
    with patched("train_step", kill), patched("prepare_sample", kill):
        assert_same_run(pretrained(tmp_path, prepared), uninterrupted)


def test_resume_repeats_validation_that_was_killed(prepared, uninterrupted, tmp_path):
    calls = itertools.count()

    def killed_in_validation(trainer, sample):
        if next(calls) == 7:  # the previous validation has 6
            raise Killed
        return sample

    with patched("prepare_sample", killed_in_validation), pytest.raises(Killed):
        pretrained(tmp_path, prepared, checkpoint_steps=1)
    assert Pretrained(directory=tmp_path).checkpoints[-1] == "step_00000006.pt"
    assert_same_run(pretrained(tmp_path, prepared, checkpoint_steps=1), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [(0, 2), (2, 0), (2, 1)])
def test_resume_with_other_num_workers_is_bit_identical(
    prepared, uninterrupted, tmp_path, first, then
):
    stopped_in(tmp_path, prepared, 4, num_workers=first)  # in the middle of an epoch
    assert_same_run(pretrained(tmp_path, prepared, num_workers=then), uninterrupted)


class TestLoadingProcesses:
    """Worker processes and threads end with the run, even if they have prefetched batches."""

    def running(self):
        """Return the number of threads and the child processes, including the test runner's."""
        return threading.active_count(), set(multiprocessing.active_children())

    def check(self, threads, processes):
        """Check that no thread or process remains other than the earlier ones."""
        assert set(multiprocessing.active_children()) <= processes
        deadline = time.monotonic() + 30  # threads of closed queues end with a delay
        while threading.active_count() > threads and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= threads, threading.enumerate()

    @pytest.mark.parametrize(
        "end",
        [None, *(pytest.param(end, marks=pytest.mark.slow) for end in (kill, request_stop))],
        ids=["at the end", "killed", "asked to stop"],
    )
    def test_workers_end_with_the_run(self, tmp_path, end):
        before = self.running()
        config = replace(
            CONFIG, micro_batches_per_update=1, max_tokens=CONFIG.max_sample_size, updates=4
        )
        prepare(context(tmp_path / "speech", None), replace(SPEECH, train=40, voices=1))
        end = end or (lambda *_: None)
        with suppress(Killed, Interrupted), watch_signals(600, print), before_update(2, end):
            pretrained(tmp_path / "run", tmp_path / "speech", config, num_workers=1)
        self.check(*before)

    def test_workers_end_with_a_finished_run(self, prepared, tmp_path):
        before = self.running()
        pretrained(tmp_path, prepared)
        pretrained(tmp_path, prepared, num_workers=1)
        self.check(*before)


@pytest.mark.parametrize("fraction", [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_resume_skips_truncated_checkpoint_with_a_warning(
    prepared, uninterrupted, tmp_path, caplog, fraction
):
    newest = killed_before(tmp_path, prepared, 6).newest
    content = newest.read_bytes()
    newest.write_bytes(content[: int(fraction * len(content))])
    with caplog.at_level("INFO", logger="matched"):
        run = pretrained(tmp_path, prepared)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1 and f"{newest} is damaged" in warnings[0]
    assert "resumed from update 3 of 7" in caplog.text
    assert_same_run(run, uninterrupted)


def test_resume_refuses_checkpoint_of_another_run(prepared, tmp_path):
    killed_before(tmp_path, prepared, 3, signature="another")
    message = "step_00000003.pt is a checkpoint of run another, not of abcdef012345; move it away"
    with pytest.raises(ValueError, match=message):
        pretrained(tmp_path, prepared)


@pytest.mark.slow
def test_checkpoint_interval_does_not_change_the_run(prepared, uninterrupted, tmp_path):
    run = pretrained(tmp_path, prepared, checkpoint_steps=99, checkpoint_minutes=0.0)
    assert run.checkpoints == ["step_00000006.pt", "step_00000007.pt"]
    assert_same_run(run, uninterrupted)


class TestFp16:
    """fp16 training: 16-bit weights, and a 32-bit copy that the optimizer updates."""

    @pytest.fixture(scope="class")
    @classmethod
    def fp16_run(cls, prepared, tmp_path_factory):
        return pretrained(tmp_path_factory.mktemp("fp16"), prepared, FP16)

    def test_resume_is_bit_identical(self, prepared, fp16_run, tmp_path):
        run = stopped_in(tmp_path, prepared, 4, FP16)
        assert run.state["model"]["mask_emb"].dtype == torch.float16
        assert {master.dtype for master in run.state["extra_state"]["masters"]} == {torch.float32}
        assert_same_run(pretrained(tmp_path, prepared, FP16), fp16_run)

    def test_resume_needs_the_master_weights(self, prepared, fp16_run, tmp_path):
        with patched("_master_weights", lambda self: []):
            stopped_in(tmp_path, prepared, 4, FP16)
            run = pretrained(tmp_path, prepared, FP16)
        assert raw_bytes(run.state["model"]) != raw_bytes(fp16_run.state["model"])

    @pytest.mark.slow
    def test_resume_restores_loss_scale(self, prepared, tmp_path):
        def grows(trainer, samples):
            scaler = trainer.optimizer.scaler
            scaler.loss_scale, scaler.scale_window = 1.0, 2  # doubles after two updates

        with before_update(0, grows):
            full = pretrained(tmp_path / "full", prepared, FP16)
            stopped_in(tmp_path / "cut", prepared, 2, FP16)
        assert [line["loss_scale"] for line in full.steps] == [2, 4, 8, 8]
        assert_same_run(pretrained(tmp_path / "cut", prepared, FP16), full)

    @pytest.mark.slow
    def test_overflowing_updates_are_skipped(self, prepared, tmp_path):
        def enlarge(trainer, samples):
            if trainer.optimizer.scaler.loss_scale == 128:
                trainer.optimizer.scaler.loss_scale = 2.0**20

        with before_update(3, enlarge):
            full = pretrained(tmp_path / "full", prepared, FP16)
            stopped_in(tmp_path / "cut", prepared, 4, FP16)
        scales = [line["loss_scale"] for line in full.steps]
        assert scales[0] == 128 and 128 < scales[1] < 2**20
        assert full.outcome.steps == 7 and not full.outcome.diverged
        assert_same_run(pretrained(tmp_path / "cut", prepared, FP16), full)


def test_assert_same_run_can_fail(prepared, uninterrupted, tmp_path):
    other = pretrained(tmp_path, prepared, replace(CONFIG, weight_decay=0.011))
    assert other.lines != uninterrupted.lines
    assert raw_bytes(other.state["model"]) != raw_bytes(uninterrupted.state["model"])
    assert other.json("fingerprint.json") == uninterrupted.json("fingerprint.json")


def test_resume_refuses_other_speech(prepared, tmp_path):
    killed_before(tmp_path / "run", prepared, 4)
    prepare(context(tmp_path / "speech", None), replace(SPEECH, train=10))
    assert refused(pretrained, tmp_path / "run", tmp_path / "speech") == (
        f"the checkpoints in {tmp_path / 'run' / 'checkpoints'} were trained on other speech than "
        f"the current data; delete {tmp_path / 'run'} to restart this run"
    )


def test_state_of_another_kind_of_device_is_refused():
    """A GPU's 16-bit training has one flat 32-bit copy of the weights, and a CPU's has many."""
    loaded = []
    part = SimpleNamespace(load_state_dict=lambda *state, **options: loaded.append(state))
    trainer = SimpleNamespace(
        model=part,
        lr_scheduler=part,
        optimizer=part,
        cfg=SimpleNamespace(model=None),
        _master_weights=lambda: [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)],
    )
    state = {
        "model": {},
        "optimizer_history": [{"lr_scheduler_state": {}, "num_updates": 3}],
        "last_optimizer_state": {},
        "extra_state": {"masters": [torch.ones(4)]},
    }
    assert refused(Trainer.load_full_state, trainer, state) == (
        "the 32-bit weights do not fit this device: GPUs store one flat tensor, CPUs one per "
        "parameter; resume an fp16 run on the kind of device that started it"
    )
    assert len(loaded) == 3
