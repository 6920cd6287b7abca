"""Ends of a job attempt: requeued or not, how it exits, and what it waits for."""

import logging
import signal
import subprocess
from types import SimpleNamespace

import pytest

from matched import Run, requeue, submitit_internals
from matched.signals import PREEMPTION_SIGNAL

from .test_requeue import make_requeuer
from .test_run import Config

CALL, LOCAL = 131, submitit_internals.local_requeue_exit_code()
"""Id of the job's controller, and the exit code with which it restarts the job."""


@pytest.fixture
def ends(one_row, monkeypatch):
    """Return a function that ends a job attempt; it returns what was done, in order."""
    done = []
    monkeypatch.setattr(submitit_internals, "requeue_on_slurm", lambda job: done.append("requeue"))
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0)
    monkeypatch.setattr(requeue.os, "kill", lambda pid, number: done.append((pid, number)))

    def leave(code):
        done.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(requeue.os, "_exit", leave)

    def end(call, cluster, rank=0, submitit=True):
        done.clear()
        environment = SimpleNamespace(job_id=str(CALL)) if submitit else None
        try:
            call(make_requeuer(one_row, cluster=cluster, rank=rank, environment=environment))
        except SystemExit as exit:
            return [*done, "exit"] if done and done[-1] == exit.code else [*done, exit.code]
        return done

    return end


TERMINATED = 128 + 15


@pytest.fixture
def logged(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize(
    ("number", "cluster", "rank", "stopped", "overdue"),
    [
        (PREEMPTION_SIGNAL, "slurm", 0, ["requeue", TERMINATED], ["requeue", TERMINATED]),
        (PREEMPTION_SIGNAL, "slurm", 1, [TERMINATED], []),
        (signal.SIGTERM, "slurm", 0, [TERMINATED], []),
        (PREEMPTION_SIGNAL, "local", 0, [LOCAL], [LOCAL, "exit"]),
        (PREEMPTION_SIGNAL, "local", 1, [LOCAL], [LOCAL, "exit"]),
        (signal.SIGTERM, "local", 0, [TERMINATED], [TERMINATED, "exit"]),
        (PREEMPTION_SIGNAL, "here", 0, [TERMINATED], [TERMINATED, "exit"]),
    ],
)
def test_stopped_job_is_requeued_where_it_was_preempted(
    ends, logged, number, cluster, rank, stopped, overdue
):
    assert ends(lambda job: job.stop(number), cluster, rank) == stopped
    assert ends(lambda job: job.stop_overdue(number), cluster, rank) == overdue
    assert logged.messages == [
        f"stopped by {number.name} after 0 s",
        f"no step has ended since {number.name}; going back to the last checkpoint",
    ]


@pytest.mark.parametrize(
    ("cluster", "submitit", "requeued", "done"),
    [
        ("slurm", True, True, ["requeue", TERMINATED]),
        ("slurm", True, False, [1, "exit"]),
        ("local", True, True, [(CALL, signal.SIGTERM), LOCAL, "exit"]),
        ("local", True, False, [(CALL, signal.SIGTERM), 1, "exit"]),
        ("local", False, True, [1, "exit"]),
        ("here", False, True, [1, "exit"]),
    ],
)
def test_abort_ends_all_processes_and_requeues_if_asked(
    ends, capsys, cluster, submitit, requeued, done
):
    assert ends(lambda job: job.abort("why", requeue=requeued), cluster, submitit=submitit) == done
    assert capsys.readouterr().err == ("" if TERMINATED in done else "matched: error: why\n")


@pytest.mark.parametrize(("begin", "requeued"), [(59.0, 0), (60.0, 1)])
def test_run_begun_within_a_minute_had_the_whole_job(ends, monkeypatch, begin, requeued):
    clock = [0.0]
    monkeypatch.setattr(requeue.time, "monotonic", lambda: clock[0])

    def run_until_the_limit(job):
        clock[0] = begin
        job.begin_run(Run(task="m:f", config=Config()))
        clock[0] = 3500.0  # of an hour
        job.stop(PREEMPTION_SIGNAL)

    assert ends(run_until_the_limit, "slurm") == ["requeue"] * requeued + [TERMINATED]


def test_abort_writes_out_what_is_buffered_before_it_exits(one_row, monkeypatch):
    order = []
    monkeypatch.setattr(requeue.logging, "shutdown", lambda: order.append("log"))
    for name in ("stdout", "stderr"):
        stream = SimpleNamespace(write=len, flush=lambda name=name: order.append(name))
        monkeypatch.setattr(requeue.sys, name, stream)
    monkeypatch.setattr(requeue.os, "_exit", order.append)
    make_requeuer(one_row, cluster="here").abort("why", requeue=False)
    assert order == ["log", "stdout", "stderr", 1]


@pytest.mark.parametrize(
    ("received", "seconds"),
    [([PREEMPTION_SIGNAL, signal.SIGTERM], 0), ([signal.SIGTERM], 600), ([PREEMPTION_SIGNAL], 600)],
)
def test_stopped_job_waits_ten_minutes_for_slurms_second_signal(
    one_row, monkeypatch, received, seconds
):
    clock = [100.0]
    monkeypatch.setattr(requeue.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(requeue.time, "sleep", lambda pause: clock.append(clock.pop() + pause))
    monkeypatch.setattr(requeue.signals, "received_signals", lambda: received)
    with pytest.raises(SystemExit) as exit:
        make_requeuer(one_row, rank=1).stop(PREEMPTION_SIGNAL)
    assert exit.value.code == TERMINATED
    assert clock[0] == pytest.approx(100 + seconds, abs=0.2)


@pytest.mark.parametrize("error", [OSError("no scontrol"), subprocess.CalledProcessError(1, "x")])
def test_job_that_cannot_be_requeued_waits_for_its_end(one_row, monkeypatch, logged, error):
    """Slurm may have requeued it already."""

    def requeue_on_slurm(environment):
        raise error

    monkeypatch.setattr(submitit_internals, "requeue_on_slurm", requeue_on_slurm)
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0)
    with pytest.raises(SystemExit) as exit:
        make_requeuer(one_row).stop(PREEMPTION_SIGNAL)
    assert exit.value.code == TERMINATED
    assert logged.messages[-1] == f"the job could not be requeued: {error}"
