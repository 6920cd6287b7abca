"""Jobs that get a stop signal: what is saved, and when the job is requeued."""

import os
import signal

import psutil
import pytest

from matched import requeue, site, submitit_internals
from matched.requeue import Requeuer
from matched.signals import PREEMPTION_SIGNAL

FIRST, SECOND = "small.LN.0", "small.DyT.0"


@pytest.fixture
def running_job(one_row):
    """Start a local job of both runs; the first run behaves as the argument says."""
    one_row.site("[local]\nworkers = 1\n[slurm]\ngrace_seconds = 1\n")

    def start(behavior):
        one_row.trouble(behavior, FIRST)
        one_row.job_process = one_row.start("submit", "table1", "--wait")
        one_row.wait_for(lambda: starts(one_row), one_row.job_process)
        return one_row

    return start


def starts(project):
    """Return (process, step that it resumed from) of every attempt at the run."""
    path = project.root / "started"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [
        tuple(map(int, line.split())) for line in text.splitlines(keepends=True) if "\n" in line
    ]


def controller(project):
    return int(project.directory(FIRST).job().job.job_id)


def has_ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end(project, code):
    out, err = project.job_process.communicate(timeout=30)
    assert project.job_process.returncode == code, out + err
    return out


# --- local jobs


@pytest.mark.parametrize("behavior", ["steps", "wait"], ids=["saves", "ignores the signal"])
def test_preempted_local_job_restarts_and_resumes(running_job, behavior):
    project = running_job(behavior)
    os.kill(starts(project)[0][0], PREEMPTION_SIGNAL)
    project.wait_for(lambda: len(starts(project)) == 2, project.job_process)
    (first, first_step), (second, resumed_step) = starts(project)
    assert first != second and first_step == 0
    assert (resumed_step > 0) == (behavior == "steps"), "from its last checkpoint"
    (project.root / "go").touch()
    end(project, 0)
    assert project.states() == {FIRST: "done", SECOND: "done"}
    assert project.computed() == [FIRST, FIRST, SECOND]


@pytest.mark.parametrize("behavior", ["steps", "wait"], ids=["saves", "ignores the signal"])
def test_terminated_local_job_is_resumed_by_the_next_submission(running_job, behavior):
    project = running_job(behavior)
    os.kill(controller(project), signal.SIGTERM)
    assert "failed" in end(project, 1)
    assert project.states() == {FIRST: "failed", SECOND: "failed"}
    assert project.computed() == [FIRST], "it is not restarted"
    assert not (project.directory(FIRST) / "failure.json").exists(), "a stopped run has not failed"
    (project.root / "go").touch()
    project.compute("submit", "table1", "--wait")
    assert (starts(project)[1][1] > 0) == (behavior == "steps")
    assert project.states() == {FIRST: "done", SECOND: "done"}


def test_local_job_ends_with_its_killed_controller(running_job):
    project = running_job("steps")
    worker = starts(project)[0][0]
    os.kill(controller(project), signal.SIGKILL)
    assert "failed" in end(project, 1)
    project.wait_for(lambda: has_ended(worker))
    assert project.states() == {FIRST: "failed", SECOND: "failed"}
    (project.root / "go").touch()
    project.compute("submit", "table1", "--wait")
    assert starts(project)[1][1] > 0, "from the checkpoint that the signal made it save"
    assert project.states() == {FIRST: "done", SECOND: "done"}


def test_terminated_foreground_run_can_be_resumed(one_row):
    one_row.trouble("steps", FIRST)
    cell = ["run", "table1", "--row", "small", "--arm", "LN"]
    process = one_row.start(*cell)
    one_row.wait_for(lambda: starts(one_row), process)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    assert one_row.states()[FIRST] == "failed"
    (one_row.root / "go").touch()
    one_row.compute(*cell)
    assert starts(one_row)[1][1] > 0
    assert one_row.states()[FIRST] == "done"


# --- Slurm jobs, with a stand-in for scontrol


@pytest.fixture
def on_slurm(one_row, pack, monkeypatch):
    """Compute the job as on Slurm; return how often it requeued itself."""
    requeued = []

    def requeue_on_slurm(environment):
        requeued.append(environment)
        os.kill(os.getpid(), signal.SIGTERM)  # Slurm ends the attempt of a job that is requeued

    monkeypatch.setattr(submitit_internals, "requeue_on_slurm", requeue_on_slurm)
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0.3)
    one_row.program("squeue", "")

    def compute(**more):
        requeued.clear()
        environment = object()
        with pytest.raises(SystemExit) as exit:
            pack(**more).compute("slurm", "41", environment)
        assert exit.value.code == 128 + signal.SIGTERM
        assert set(requeued) <= {environment}
        return len(requeued)

    return compute


def failure_reason(project, name=FIRST):
    path = project.directory(name) / "failure.json"
    return project.json(path)["reason"] if path.exists() else None


USED_UP, LONG = 1, 60
"""Time limits in minutes: one that is over at once, since Slurm may signal a minute early; more."""


@pytest.mark.parametrize("saved", ["saving", "filling"], ids=["checkpoint", "file of a task"])
def test_job_at_its_time_limit_is_requeued_if_it_saved(one_row, on_slurm, saved):
    one_row.trouble(f"gets SIGUSR2 {saved}", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert failure_reason(one_row) is None and one_row.computed() == [FIRST]


def test_run_that_saves_nothing_in_a_whole_job_has_failed(one_row, on_slurm):
    """Otherwise it would be requeued forever. The other runs of the job are still computed."""
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert failure_reason(one_row).startswith(
        "no step was saved in the whole time of a job, 1 min:"
    )
    assert "max_hours under [slurm]" in failure_reason(one_row)
    one_row.trouble("gets SIGUSR2 saving", SECOND)
    assert on_slurm(minutes=USED_UP) == 1
    assert one_row.computed() == [FIRST, SECOND], "the failed run is not computed again in this job"


def test_job_whose_only_run_saves_nothing_is_not_requeued(one_row, on_slurm):
    one_row.finish(SECOND, top1=1.0)
    one_row.recipe("TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL),))")
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 0
    assert "no step was saved" in failure_reason(one_row)


@pytest.mark.parametrize("minutes", [LONG, None], ids=["preempted early", "no limit"])
def test_preempted_run_that_saved_nothing_has_not_failed(one_row, on_slurm, minutes):
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=minutes) == 1
    assert failure_reason(one_row) is None


def test_run_that_started_late_in_a_job_has_not_failed(one_row, on_slurm, monkeypatch):
    """The runs before it used most of the time."""
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(requeue.time, "monotonic", lambda: next(clock, 100.0))
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0)
    one_row.trouble("gets SIGUSR2", FIRST)
    assert on_slurm(minutes=USED_UP) == 1
    assert failure_reason(one_row) is None


def test_cancelled_slurm_job_is_not_requeued(one_row, on_slurm):
    one_row.trouble("gets SIGTERM saving", FIRST)
    assert on_slurm(minutes=LONG) == 0
    assert failure_reason(one_row) is None


@pytest.mark.parametrize("error", ["failing", "losing"])
def test_error_of_a_preempted_run_is_no_failure(one_row, on_slurm, error):
    """Its data loaders or its other processes may have been ended by the same preemption."""
    one_row.trouble(f"gets SIGUSR2 {error}", FIRST)
    assert on_slurm(minutes=LONG) == 1
    assert failure_reason(one_row) is None
    assert one_row.computed() == [FIRST], "the job ends, and its next run is not started"


def make_requeuer(project, **changes):
    given = {
        "cluster": "slurm",
        "environment": object(),
        "site": site.read(project.root / site.FILE),
        "token": "t1",
        "minutes": LONG,
        "num_runs": 1,
        "rank": 0,
    }
    return Requeuer(**given | changes)


@pytest.mark.parametrize(("rank", "requeues"), [(0, 1), (1, 0)])
def test_only_rank_0_requeues_a_preempted_job(one_row, monkeypatch, rank, requeues):
    requeued = []
    monkeypatch.setattr(submitit_internals, "requeue_on_slurm", requeued.append)
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0)
    with pytest.raises(SystemExit):
        make_requeuer(one_row, rank=rank).stop(PREEMPTION_SIGNAL)
    assert len(requeued) == requeues


@pytest.mark.parametrize(
    ("seconds", "finished", "requeued"),
    [(3400, False, 1), (3420, False, 0), (3500, False, 0), (3500, True, 1)],
)
def test_job_is_used_up_when_the_grace_period_begins(
    one_row, monkeypatch, seconds, finished, requeued
):
    """Slurm signals 120 s before the end of an hour, or up to a minute earlier."""
    clock, requests = [0.0], []
    monkeypatch.setattr(requeue.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(submitit_internals, "requeue_on_slurm", requests.append)
    monkeypatch.setattr(requeue, "KILL_TIMEOUT", 0)
    directory = one_row.directory(FIRST)
    directory.prepare()
    requeuer = make_requeuer(one_row)
    requeuer.begin_run(directory.run)
    if finished:  # without a checkpoint; the job has not begun its next run yet
        directory.write_result({"outcome": "done", "metrics": {}})
    clock[0] = float(seconds)
    with pytest.raises(SystemExit):
        requeuer.stop(PREEMPTION_SIGNAL)
    assert len(requests) == requeued
    assert (failure_reason(one_row) is None) == bool(requeued)


# --- jobs that lose a process


@pytest.mark.parametrize(
    ("restarts", "saves", "requeued"),
    [("0", False, True), ("2", False, True), ("3", False, False), ("3", True, True)],
)
def test_job_that_loses_processes_without_progress_is_not_requeued_forever(
    one_row, monkeypatch, restarts, saves, requeued
):
    ended = []
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(
        Requeuer, "abort", lambda self, reason, *, requeue: ended.append((reason, requeue))
    )
    directory = one_row.directory(FIRST)
    directory.prepare()
    (directory / "checkpoints" / "step_1").touch()
    requeuer = make_requeuer(one_row)
    requeuer.begin_run(directory.run)
    if saves:
        (directory / "checkpoints" / "step_2").touch()
    requeuer.abort_after_lost_process("the connection is closed")
    assert ended == [("the connection is closed", requeued)]
