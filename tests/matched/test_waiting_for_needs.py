"""Jobs that wait for a run of another job: when it is over, with and without Slurm's answers."""

import pytest

from matched import job_status, lease, run_execution
from matched.signals import Interrupted
from matched.status import JobStatus, State


def last_status(project, name="small.LN.0"):
    own = project.job(job_id="99").job
    return run_execution._last_status(project.directory(name), own, job_status.SlurmQueue())


@pytest.fixture
def need(one_row, monkeypatch):
    """The project, of which small.LN.0 was given to job 41; polls take no time."""
    monkeypatch.setattr(lease, "POLL", 0.001)
    one_row.given("small.LN.0")
    return one_row


def test_a_need_is_not_over_when_squeue_fails_once(need):
    """A busy controller first does not answer, then the job runs, and at last it has a result."""
    need.program(
        "squeue",
        'if [ -e "$HOME/failed" ]; then echo "41_N/A|41|COMPLETED|None"; exit; fi\n'
        ': > "$HOME/failed"; echo "slurm_load_jobs error" >&2; exit 1',
    )
    status = last_status(need)
    assert status.state == "failed" and "COMPLETED" in status.reason, "Slurm's own answer"


def test_patience_with_slurm_starts_again_with_every_answer(need, monkeypatch):
    """Slurm answers for longer than the patience, is silent once, and answers again."""
    job, seconds = need.directory("small.LN.0").job().job, [0.0]
    running, over = JobStatus(state=State.RUNNING), JobStatus(state=None, detail="COMPLETED")
    answers = iter([running, running, None, over])

    def ask(directories, queue):
        seconds[0] += 0.7 * job_status.SLURM_PATIENCE
        if (answer := next(answers)) is None:
            raise ValueError("squeue gave no answer")
        return {job: answer}

    monkeypatch.setattr(job_status, "job_statuses", ask)
    monkeypatch.setattr(run_execution.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(run_execution, "_pause", lambda polls=1: None)
    assert "COMPLETED" in last_status(need).reason


def test_a_need_without_an_answer_of_slurm_lives_while_it_beats(need, monkeypatch):
    need.program("squeue", "exit 1")
    monkeypatch.setattr(job_status, "SLURM_PATIENCE", 0.0)
    owned = need.owned(need.directory("small.LN.0"), need.job())
    pauses = []

    def pause(polls=1):
        pauses.append(polls)
        if len(pauses) == 3:
            need.finish("small.LN.0", top1=80.0)
            owned.release()

    monkeypatch.setattr(run_execution, "_pause", pause)
    assert last_status(need).state == "done" and len(pauses) == 3


def test_a_silent_need_is_over_on_a_node_without_squeue(need, monkeypatch):
    need.owned(need.directory("small.LN.0"), need.job())
    monkeypatch.setattr(job_status, "SILENCE", -1)
    monkeypatch.setattr(run_execution, "_pause", lambda polls=1: pytest.fail("nothing to wait for"))
    status = last_status(need)
    assert status.state == "failed" and "no heartbeat for 0 min" in status.reason


def test_pause_ends_with_a_stop_signal(monkeypatch):
    naps, stops = [], iter([None, None, "SIGTERM"])
    monkeypatch.setattr(run_execution.signals, "stop_signal", lambda: next(stops))
    monkeypatch.setattr(run_execution.time, "sleep", naps.append)
    run_execution._pause()
    with pytest.raises(Interrupted):
        run_execution._pause(polls=3)
    assert naps == [0.5, 0.5]
