"""Checkpoint schedule: preemption and periodic checkpoints, in one process and in two."""

import pytest

from matched.signals import Interrupted, watch_signals
from matched.training import checkpoint_schedule
from matched.training.checkpoint_schedule import CheckpointSchedule
from matched.training.fingerprint import BATCHES

from .problem import PreemptAt, TrainedRun, assert_same_run, context, identical, train


def preempt_at(step):
    """Loss of a single process that receives the preemption signal in ``step`` (0-based)."""
    return PreemptAt(step, micro_batches=2)


def train_preempted(directory, step, **where):
    with watch_signals(600, print), pytest.raises(Interrupted):
        train(directory, where=where, loss=preempt_at(step))
    return TrainedRun(directory=directory)


@pytest.mark.parametrize("step", [0, 6, 10])
def test_preempted_run_saves_its_step_and_resumes(tmp_path, uninterrupted, step):
    run = train_preempted(tmp_path, step)
    assert run.checkpoints[-1] == f"step_{step + 1:08d}.pt"
    assert max(line["step"] for line in run.lines or [{"step": 0}]) <= step + 1
    assert_same_run(train(tmp_path, weights=99), uninterrupted)


def test_preemption_is_logged_in_one_line(tmp_path, caplog):
    with caplog.at_level("INFO", logger="matched"):
        train_preempted(tmp_path, 6)
    assert caplog.messages[-2].startswith("saved step 7 in ")
    assert caplog.messages[-1] == "interrupted after step 7 of 12, which is saved"


def test_preemption_at_a_checkpoint_step_saves_once(tmp_path):
    checks = []
    train_preempted(tmp_path, 4, check_ownership=lambda: checks.append(1))
    assert len(checks) == BATCHES + 1, "one for each write of fingerprint.json, one checkpoint"


def test_preemption_in_the_last_step_finishes_the_run(tmp_path, uninterrupted):
    with watch_signals(600, print):
        assert_same_run(train(tmp_path, loss=preempt_at(11)), uninterrupted)


def saved_steps(log):
    return [int(line.split()[2]) for line in log.splitlines() if line.startswith("saved step")]


@pytest.mark.parametrize(
    "minutes, steps", [(0.0, list(range(1, 13))), (60.0, [12])], ids=["passed", "not passed"]
)
def test_checkpoint_minutes(tmp_path, caplog, minutes, steps):
    with caplog.at_level("INFO", logger="matched"):
        train(tmp_path, where={"checkpoint_steps": 99, "checkpoint_minutes": minutes})
    assert saved_steps("\n".join(caplog.messages)) == steps


class Clock:
    """A clock that a test sets, in minutes."""

    minutes = 1000.0

    def __call__(self):
        return 60 * self.minutes


def steps_saved_at(context, minutes):
    """The steps that are saved if step n ends ``minutes[n - 1]`` after the start of the loop."""
    clock, saved = Clock(), []
    start = clock.minutes
    schedule = CheckpointSchedule(context, lambda: saved.append(step), len(minutes), clock)
    with schedule:
        for step, at in enumerate(minutes, start=1):
            clock.minutes = start + at
            schedule.after_step(step)
    return saved


class TestIntervals:
    def test_checkpoint_minutes_are_minutes_since_the_last_save(self, tmp_path):
        place = context(tmp_path, checkpoint_steps=99, checkpoint_minutes=10.0)
        assert steps_saved_at(place, [1, 9.9, 10, 10.1, 12, 19.9, 20, 21, 29.9, 45, 46]) == [
            3, 7, 10,
        ]  # fmt: skip

    def test_a_save_by_checkpoint_steps_restarts_the_minutes(self, tmp_path):
        place = context(tmp_path, checkpoint_steps=3, checkpoint_minutes=10.0)
        assert steps_saved_at(place, [2, 4, 9, 11, 18, 18.5, 20, 29]) == [3, 6, 8]

    def test_only_rank_0_watches_the_clock(self, tmp_path):
        place = context(tmp_path, rank=1, checkpoint_steps=99, checkpoint_minutes=10.0)
        assert steps_saved_at(place, [11, 22]) == []


class TestEnd:
    """The end of the steps ends the agreement between processes, or abandons it after an error."""

    @pytest.fixture
    def calls(self, monkeypatch):
        """The calls of the agreement; ``finish`` raises the errors of the list of this name."""

        class Recorder:
            def abandon(self):
                calls.append("abandon")

            def finish(self):
                calls.append("finish")
                if errors:
                    raise errors.pop()

        calls, errors = [], []
        self.errors = errors
        monkeypatch.setattr(checkpoint_schedule, "Agreement", Recorder)
        return calls

    def test_last_step_finishes_the_agreement(self, tmp_path, calls):
        with CheckpointSchedule(context(tmp_path), lambda: None, 3):
            pass
        assert calls == ["finish"]

    def test_failed_step_abandons_the_agreement(self, tmp_path, calls):
        with (
            pytest.raises(RuntimeError, match="in a step"),
            CheckpointSchedule(context(tmp_path), lambda: None, 3),
        ):
            raise RuntimeError("in a step")
        assert calls == ["abandon"]

    def test_agreement_that_cannot_finish_is_abandoned(self, tmp_path, calls):
        self.errors.append(RuntimeError("another process is gone"))
        with (
            pytest.raises(RuntimeError, match="another process is gone"),
            CheckpointSchedule(context(tmp_path), lambda: None, 3),
        ):
            pass
        assert calls == ["finish", "abandon"]


class TestTwoProcesses:
    def test_checkpoint_minutes_of_rank0_count_for_all(self, two_processes):
        # Rank 0 requests the save at one step boundary, and both save at the next.
        log = (two_processes / "logs" / "timed-0.txt").read_text()
        assert saved_steps(log) == [2, 4, 6, 8, 10, 12]
        timed = TrainedRun(directory=two_processes / "timed")
        assert identical(timed.state, TrainedRun(directory=two_processes / "own-0").state)

    @pytest.mark.parametrize("name", ["preempted", "sharded-preempted"])
    def test_both_processes_stop_at_the_same_step(self, two_processes, resumed, name):
        for rank in range(2):
            log = (two_processes / "logs" / f"{name}-{rank}.txt").read_text().splitlines()
            # Signalled in step 7, requested at its end, obeyed at the end of step 8.
            assert log[-2] == "interrupted after step 8 of 12, which is saved"
            assert log[-1].startswith("ended by Interrupted")
        sharded = name.startswith("sharded")
        suffix = "" if sharded else ".pt"
        names = [f"step_00000005{suffix}", f"step_00000008{suffix}"]
        assert TrainedRun(directory=two_processes / name).checkpoints == names
        run = TrainedRun(directory=resumed / name)
        uninterrupted = TrainedRun(directory=two_processes / ("sharded" if sharded else "own-0"))
        assert run.lines == uninterrupted.lines
        assert identical(run.state, uninterrupted.state)
