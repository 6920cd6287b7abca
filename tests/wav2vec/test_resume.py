"""A pretraining that was cut and started again ends as if nothing had happened."""

import itertools
import multiprocessing
import threading
import time
from contextlib import suppress
from dataclasses import replace
from unittest import mock

import pytest
import torch

from dyt_wav2vec.preparation import prepare
from dyt_wav2vec.trainer import Trainer
from matched.signals import Interrupted, watch_signals

from .problem import (
    CONFIG,
    SPEECH,
    Cut,
    Pretrained,
    ask,
    assert_same_run,
    before_update,
    bits,
    context,
    cut,
    pretrained,
)

FP16 = replace(CONFIG, precision="fp16")


def patched(name, method):
    """Meanwhile the trainer has another method of this name."""
    return mock.patch.object(Trainer, name, method)


def cut_before(directory, speech, done, config=CONFIG, **where):
    with before_update(done, cut), pytest.raises(Cut):
        pretrained(directory, speech, config, **where)
    return Pretrained(directory=directory)


def asked_in(directory, speech, done, config=CONFIG, **where):
    with watch_signals(600, print), before_update(done, ask), pytest.raises(Interrupted):
        pretrained(directory, speech, config, **where)
    return Pretrained(directory=directory)


# Epochs end after updates 3 and 6; lines are written after 2, 4, 6, 7; validation is after 4 and 7.
@pytest.mark.parametrize(
    "done",
    [2, 4, *(pytest.param(done, marks=pytest.mark.slow) for done in (0, 1, 3, 5))],
    ids=lambda done: f"in update {done + 1}",
)
def test_asked_to_stop_it_saves_the_update_and_goes_on_from_there(
    prepared, undisturbed, tmp_path, done
):
    run = asked_in(tmp_path, prepared, done, checkpoint_steps=99)
    assert run.checkpoints == [f"step_{done + 1:08d}.pt"]
    assert_same_run(pretrained(tmp_path, prepared, checkpoint_steps=99), undisturbed)


@pytest.mark.slow
def test_stopped_after_every_update_it_ends_the_same(prepared, undisturbed, tmp_path):
    for done in range(6):
        asked_in(tmp_path, prepared, done)
    assert_same_run(pretrained(tmp_path, prepared), undisturbed)


# Checkpoints are after updates 3 and 6.
@pytest.mark.parametrize("done", [1, 5], ids=lambda done: f"in update {done + 1}")
def test_killed_it_goes_on_from_an_earlier_checkpoint(prepared, undisturbed, tmp_path, done):
    cut_before(tmp_path, prepared, done)
    assert_same_run(pretrained(tmp_path, prepared), undisturbed)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoints", "fingerprint.json", "lists", "metrics.jsonl", "progress.json",
    }  # fmt: skip


@pytest.mark.slow
def test_a_half_written_last_line_of_metrics_is_dropped(prepared, undisturbed, tmp_path):
    metrics = cut_before(tmp_path, prepared, 5).directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    assert_same_run(pretrained(tmp_path, prepared), undisturbed)


@pytest.mark.parametrize("done", [3, 6], ids=["in its middle", "at its end"])
def test_asked_to_stop_before_a_validation_it_does_that_where_it_goes_on(
    prepared, undisturbed, tmp_path, done
):
    run = asked_in(tmp_path, prepared, done)
    assert run.checkpoints[-1] == f"step_{done + 1:08d}.pt"
    assert len(run.evaluations) == (done == 6)
    assert_same_run(pretrained(tmp_path, prepared), undisturbed)


def test_a_finished_one_is_not_trained_again(prepared, undisturbed, tmp_path):
    pretrained(tmp_path, prepared)
    with patched("train_step", cut), patched("prepared", cut):  # neither an update nor validation
        assert_same_run(pretrained(tmp_path, prepared), undisturbed)


def test_cut_in_its_last_validation_it_does_that_again(prepared, undisturbed, tmp_path):
    calls = itertools.count()

    def measured(trainer, sample):
        if next(calls) == 7:  # there are 6 in the validation before
            raise Cut
        return sample

    with patched("prepared", measured), pytest.raises(Cut):
        pretrained(tmp_path, prepared, checkpoint_steps=1)
    assert Pretrained(directory=tmp_path).checkpoints[-1] == "step_00000006.pt"
    assert_same_run(pretrained(tmp_path, prepared, checkpoint_steps=1), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [(0, 2), (2, 0), (2, 1)])
def test_it_goes_on_with_any_number_of_loading_processes(
    prepared, undisturbed, tmp_path, first, then
):
    asked_in(tmp_path, prepared, 4, num_workers=first)  # in the middle of an epoch
    assert_same_run(pretrained(tmp_path, prepared, num_workers=then), undisturbed)


class TestLoadingProcesses:
    """They end with the run, also where it has read much of an epoch ahead."""

    def there(self):
        """How many threads there are, and which processes: of whatever runs the tests, too."""
        return threading.active_count(), set(multiprocessing.active_children())

    def check(self, threads, processes):
        """Args: threads, processes: those that were there before."""
        assert set(multiprocessing.active_children()) <= processes
        deadline = time.monotonic() + 30  # a thread of a queue that was closed ends in its own time
        while threading.active_count() > threads and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= threads, threading.enumerate()

    @pytest.mark.parametrize(
        "end",
        [None, *(pytest.param(end, marks=pytest.mark.slow) for end in (cut, ask))],
        ids=["at its end", "cut", "asked to stop"],
    )
    def test_none_outlives_a_run(self, tmp_path, end):
        before = self.there()
        config = replace(CONFIG, shards=1, max_tokens=CONFIG.max_sample_size, updates=4)
        prepare(context(tmp_path / "speech", None), replace(SPEECH, train=40, voices=1))
        end = end or (lambda *_: None)
        with suppress(Cut, Interrupted), watch_signals(600, print), before_update(2, end):
            pretrained(tmp_path / "run", tmp_path / "speech", config, num_workers=1)
        self.check(*before)

    def test_none_outlives_a_run_that_was_finished(self, prepared, tmp_path):
        before = self.there()
        pretrained(tmp_path, prepared)
        pretrained(tmp_path, prepared, num_workers=1)
        self.check(*before)


@pytest.mark.parametrize("share", [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_truncated_checkpoint_is_passed_over_with_a_warning(
    prepared, undisturbed, tmp_path, caplog, share
):
    newest = cut_before(tmp_path, prepared, 6).newest
    content = newest.read_bytes()
    newest.write_bytes(content[: int(share * len(content))])
    with caplog.at_level("INFO", logger="matched"):
        run = pretrained(tmp_path, prepared)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1 and f"{newest} is damaged" in warnings[0]
    assert "resumed from update 3 of 7" in caplog.text
    assert_same_run(run, undisturbed)


def test_a_checkpoint_of_another_run_is_refused(prepared, tmp_path):
    cut_before(tmp_path, prepared, 3, signature="another")
    message = "step_00000003.pt is a checkpoint of run another, not of abcdef012345; move it away"
    with pytest.raises(ValueError, match=message):
        pretrained(tmp_path, prepared)


@pytest.mark.slow
def test_how_often_it_is_saved_changes_nothing(prepared, undisturbed, tmp_path):
    run = pretrained(tmp_path, prepared, checkpoint_steps=99, checkpoint_minutes=0.0)
    assert run.checkpoints == ["step_00000006.pt", "step_00000007.pt"]
    assert_same_run(run, undisturbed)


class TestFp16:
    """Its weights are kept in 16 bits, and a copy of them in 32, by which it is updated."""

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, prepared, tmp_path_factory):
        return pretrained(tmp_path_factory.mktemp("fp16"), prepared, FP16)

    def test_it_ends_the_same(self, prepared, whole, tmp_path):
        run = asked_in(tmp_path, prepared, 4, FP16)
        assert run.state["model"]["mask_emb"].dtype == torch.float16
        assert {copy.dtype for copy in run.state["extra_state"]["masters"]} == {torch.float32}
        assert_same_run(pretrained(tmp_path, prepared, FP16), whole)

    def test_without_the_copy_in_32_bits_it_would_not(self, prepared, whole, tmp_path):
        with patched("_masters", lambda self: []):
            asked_in(tmp_path, prepared, 4, FP16)
            run = pretrained(tmp_path, prepared, FP16)
        assert bits(run.state["model"]) != bits(whole.state["model"])

    @pytest.mark.slow
    def test_the_loss_scale_goes_on_where_it_was(self, prepared, tmp_path):
        def grows(trainer, samples):
            scaler = trainer.optimizer.scaler
            scaler.loss_scale, scaler.scale_window = 1.0, 2  # it doubles after two updates

        with before_update(0, grows):
            whole = pretrained(tmp_path / "whole", prepared, FP16)
            asked_in(tmp_path / "cut", prepared, 2, FP16)
        assert [line["loss_scale"] for line in whole.steps] == [2, 4, 8, 8]
        assert_same_run(pretrained(tmp_path / "cut", prepared, FP16), whole)

    @pytest.mark.slow
    def test_updates_whose_gradients_overflow_are_passed_over(self, prepared, tmp_path):

        def enlarge(trainer, samples):
            if trainer.optimizer.scaler.loss_scale == 128:
                trainer.optimizer.scaler.loss_scale = 2.0**20

        with before_update(3, enlarge):
            whole = pretrained(tmp_path / "whole", prepared, FP16)
            asked_in(tmp_path / "cut", prepared, 4, FP16)
        scales = [line["loss_scale"] for line in whole.steps]
        assert scales[0] == 128 and 128 < scales[1] < 2**20
        assert whole.outcome.steps == 7 and not whole.outcome.diverged
        assert_same_run(pretrained(tmp_path / "cut", prepared, FP16), whole)


def test_the_comparison_of_these_tests_can_fail(prepared, undisturbed, tmp_path):
    other = pretrained(tmp_path, prepared, replace(CONFIG, weight_decay=0.011))
    assert other.lines != undisturbed.lines
    assert bits(other.state["model"]) != bits(undisturbed.state["model"])
    assert other.json("fingerprint.json") == undisturbed.json("fingerprint.json")


def test_other_speech_than_it_was_trained_on_is_refused(prepared, tmp_path):
    cut_before(tmp_path / "run", prepared, 4)
    prepare(context(tmp_path / "speech", None), replace(SPEECH, train=10))
    with pytest.raises(ValueError, match=r"were trained on other speech than there is now; delete"):
        pretrained(tmp_path / "run", tmp_path / "speech")
