"""States of runs on Slurm, as squeue and sacct report them, and of processes on other hosts."""

import os
import signal
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from matched import cancellation, job_status
from matched.status import JobId, JobStatus, State

NAMES = ["small.LN.0", "small.DyT.0", "small.LN.1", "small.DyT.1", "large.LN.0"]


def squeue(project, *lines):
    """Write a squeue that answers in the format ``%F_%K|%A|%T|%r`` and records its arguments."""
    text = "".join(f"{line}\n" for line in lines)
    project.program("squeue", f'echo "$@" >> "$HOME/asked"\ncat <<END\n{text}END')


def test_states_of_single_jobs_and_of_array_tasks(project):
    for name, job_id in zip(NAMES, ["41", "42_0", "42_1", "42_2", "43"], strict=True):
        project.begun(name, "slurm", job_id)
    squeue(
        project,
        "41_N/A|41|RUNNING|None",
        "42_0|44|RUNNING|None",
        "42_1|45|PENDING|Priority",
        "999_0|999|RUNNING|None",
    )
    assert project.states() == {
        "small.LN.0": "running",
        "small.DyT.0": "running",
        "small.LN.1": "queued",
        "small.DyT.1": "failed",
        "large.LN.0": "failed",
        "large.DyT.0": "new",
        "large.LN.1": "new",
        "large.DyT.1": "new",
    }
    told = project.cli("status", "table1", code=1)
    assert "slurm job 42_0" in told
    assert "slurm job 43 ended without a result" in " ".join(told.split())


def test_runs_of_a_running_job_are_queued_until_started(one_row):
    """The job is running, but is computing another of its runs."""
    one_row.given("small.LN.0")
    one_row.begun("small.DyT.0")
    squeue(one_row, "41_N/A|41|RUNNING|None")
    assert one_row.states() == {"small.LN.0": "queued", "small.DyT.0": "running"}


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", "queued"),
        ("REQUEUED", "queued"),
        ("SUSPENDED", "queued"),
        ("CONFIGURING", "running"),
        ("COMPLETING", "running"),
        ("RUNNING", "running"),
        ("COMPLETED", "failed"),
        ("CANCELLED", "failed"),
        ("TIMEOUT", "failed"),
        ("OUT_OF_MEMORY", "failed"),
    ],
)
def test_squeue_state_words(one_row, word, state):
    one_row.begun("small.LN.0")
    squeue(one_row, f"41_N/A|41|{word}|None")
    assert one_row.states()["small.LN.0"] == state


def test_squeue_is_asked_once_and_only_if_needed(project):
    squeue(project)
    project.states()
    assert not (project.root / "asked").exists()
    for name in NAMES:
        project.given(name)
    project.plan()
    (asked,) = (project.root / "asked").read_text(encoding="utf-8").splitlines()
    assert asked == f"--user={os.getuid()} --noheader --array --states=all --format=%F_%K|%A|%T|%r"


def test_finished_runs_need_no_squeue(one_row):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.given(name)
        one_row.finish(name, top1=1.0)
    assert set(one_row.states().values()) == {"done"}


def test_missing_squeue_is_an_error(one_row):
    one_row.given("small.LN.0")
    line = one_row.mistake("status", "table1")
    assert "there is no squeue here; ask from a machine of the cluster" in line


def test_failing_squeue_is_quoted(one_row):
    one_row.given("small.LN.0")
    one_row.program("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    line = one_row.mistake("status", "table1")
    assert line == "squeue failed: slurm_load_jobs error: Unable to contact"


def test_squeue_without_answer_times_out(one_row, monkeypatch):
    one_row.given("small.LN.0")
    one_row.program("squeue", "exec sleep 60")
    monkeypatch.setattr(job_status, "PATIENCE", 0.05)
    message = one_row.mistake("status", "table1")
    assert message == "squeue gave no answer in 0.05 s; try again later"


def test_submit_leaves_live_jobs_alone(one_row):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.given(name)
    squeue(one_row, "41_N/A|41|PENDING|Priority")
    before = one_row.snapshot()
    assert "0 of 2 runs submitted in 0 jobs" in one_row.cli("submit", "table1")
    assert one_row.snapshot() == before


# --- messages of Slurm


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("PENDING|Priority", "slurm job 41 PENDING (Priority)"),
        ("PENDING|None", "slurm job 41 PENDING"),
        (
            "PENDING|ReqNodeNotAvail, UnavailableNodes:n[1-2]",
            "(ReqNodeNotAvail, UnavailableNodes:n[",
        ),
        ("RUNNING|None", "slurm job 41 RUNNING"),
    ],
)
def test_status_shows_squeue_state_and_reason(one_row, answer, told):
    one_row.given("small.LN.0")
    squeue(one_row, f"41_N/A|41|{answer}")
    shown = one_row.cli("status", "table1")
    assert told in shown and "None" not in shown


@pytest.mark.parametrize("word", ["OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL"])
def test_status_shows_how_a_slurm_job_ended(one_row, word):
    one_row.begun("small.LN.0")
    squeue(one_row, f"41_N/A|41|{word}|None")
    told = one_row.cli("status", "table1", code=1)
    assert f"slurm job 41 ended without a result ({word}); what it printed is in" in told


def sacct(project, *lines, script=""):
    text = "".join(f"{line}\n" for line in lines)
    project.program("sacct", f'echo "$@" >> "$HOME/asked_sacct"\n{script}\ncat <<END\n{text}END')


def test_sacct_is_asked_for_jobs_unknown_to_squeue(one_row):
    one_row.begun("small.LN.0", "slurm", "41_0")
    one_row.begun("small.DyT.0", "slurm", "42")
    squeue(one_row, "42_N/A|42|RUNNING|None")
    sacct(one_row, "41_0|CANCELLED by 1000")
    told = one_row.cli("status", "table1", code=1)
    assert "slurm job 41_0 ended without a result (CANCELLED by 1000)" in told
    job_status._ask_slurm({"43": "1000", "42": "1000", "41_0": "1000"})
    first, second = (one_row.root / "asked_sacct").read_text(encoding="utf-8").splitlines()
    # squeue knows job 42.
    assert first == "-X -n -P -o JobID,State -j 41_0"
    assert second == "-X -n -P -o JobID,State -j 41_0,43"


def test_job_known_only_to_sacct_may_be_running(one_row):
    one_row.begun("small.LN.0")
    squeue(one_row)
    sacct(one_row, "41|RUNNING")
    assert one_row.states()["small.LN.0"] == "running"


@pytest.mark.parametrize("missing", ["there is none", "it has no database", "it knows nothing"])
def test_missing_accounting_gives_an_end_without_reason(one_row, missing):
    one_row.begun("small.LN.0")
    squeue(one_row)
    if missing == "it has no database":
        sacct(one_row, script="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    elif missing == "it knows nothing":
        sacct(one_row)
    told = one_row.cli("status", "table1", code=1)
    assert "ended without a result (killed, or the machine went away)" in told
    assert "accounting storage" not in told


def test_squeue_is_asked_for_jobs_of_other_users(one_row):
    """Users who share a runs folder see each other's runs."""
    one_row.given("small.LN.0", user="1001")
    one_row.given("small.DyT.0", job_id="42", user="1002")
    squeue(one_row, "41_N/A|41|RUNNING|None", "42_N/A|42|PENDING|Priority")
    assert set(one_row.states().values()) == {"queued"}
    (asked,) = (one_row.root / "asked").read_text(encoding="utf-8").splitlines()
    assert asked.startswith("--user=1001,1002 ")


# --- processes on other hosts


def test_job_statuses_of_a_damaged_job_record(one_row):
    """The owner is known by its own file."""
    directory = one_row.begun("small.LN.0", "local", str(os.getpid()))
    (directory / "job.json").write_text("{", encoding="utf-8")
    assert job_status.job_statuses([directory]) == {
        JobId.here("local", str(os.getpid())): JobStatus(state=State.RUNNING)
    }


@pytest.mark.parametrize(
    ("given", "beat", "listed", "finished", "state"),
    [
        (10, 600, None, None, None),  # the beat is surer than the time of the submission
        (600, 10, None, None, State.RUNNING),
        (600, 600, 10, 700, State.RUNNING),
        (600, 600, 700, 10, State.RUNNING),
        (600, 10, 700, None, State.RUNNING),
        (600, 600, 700, None, None),
    ],
)
def test_newest_sign_of_a_job_on_another_host_counts(
    project, monkeypatch, given, beat, listed, finished, state
):
    """Seconds since it was given a run, its beat, and its results of listed and finished runs."""
    now = time.time()
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "far")
        unfinished = project.given("small.LN.0", "local", "7", at=now - given)
        job = unfinished.job().job
        owned = project.owned(unfinished, unfinished.job())
        owned.release()
        os.utime(owned.path, (now - beat,) * 2)
        for name, seconds in (("small.DyT.0", listed), ("small.DyT.1", finished)):
            if seconds is not None:
                directory = project.given(name, "local", "7")
                project.finish(name, top1=1.0)
                os.utime(directory / "result.json", (now - seconds,) * 2)
        project.given("small.LN.1", "local", "8")  # its job has no unfinished run
        project.finish("small.LN.1", top1=1.0)
    runs = [
        project.directory(name)
        for name in ("small.DyT.0", "small.LN.0", "small.LN.1", "small.DyT.1")
    ]
    found = job_status.job_statuses(runs[:3], finished=runs[3:])
    assert found.keys() == {job} and found[job].state == state


# --- processes of other containers and users


@pytest.fixture
def stranger():
    """A process that has nothing to do with the project."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def other_container(project, name, pid, namespace="1", **more):
    """Give the run to a process of another container that has this host's name."""
    job = JobId.here("local", str(pid))
    boot, _, started = job.identity.split(".")
    job = replace(job, identity=f"{boot}.{namespace}.{started}")
    return project.given(name, "local", str(pid), job=job, **more)


def test_dead_container_with_this_host_name_is_not_running(one_row, stranger):
    """The process of its number is another one here."""
    other_container(one_row, "small.LN.0", stranger.pid)
    other_container(one_row, "small.DyT.0", stranger.pid, namespace="2", at=time.time() - 600)
    assert one_row.states() == {"small.LN.0": "queued", "small.DyT.0": "failed"}


def test_cancel_signals_no_process_of_another_container(one_row, stranger):
    other_container(one_row, "small.LN.0", stranger.pid)
    line = one_row.mistake("cancel", "table1")
    assert line == (
        f"process {stranger.pid} on host {socket.gethostname()} cannot be seen from here (it is "
        "another user's, or in another container), and its id may be another process's; cancel it "
        "from where it runs"
    )
    assert stranger.poll() is None
    assert "cancelled" not in one_row.json(one_row.directory("small.LN.0") / "job.json")


def test_cancel_signals_no_later_process_with_the_same_number(one_row, stranger):
    job = JobId.here("local", str(stranger.pid))
    where, _, started = job.identity.rpartition(".")
    job = replace(job, identity=f"{where}.{int(started) - 1}")
    one_row.given("small.LN.0", "local", job=job)
    assert one_row.states()["small.LN.0"] == "failed"
    assert "0 runs asked to stop" in one_row.cli("cancel", "table1")
    job_status.cancel([one_row.directory("small.LN.0").job()])
    assert stranger.poll() is None


def test_job_recorded_without_an_identity_is_not_signalled(one_row, stranger):
    job = JobId(cluster="local", host=socket.gethostname(), job_id=str(stranger.pid))
    one_row.given("small.LN.0", "local", job=job)
    assert one_row.states()["small.LN.0"] == "queued"
    assert "cannot be seen from here" in one_row.mistake("cancel", "table1")
    assert stranger.poll() is None


def test_cancel_stops_the_owner_and_not_a_later_job(one_row, stranger, monkeypatch):
    one_row.given("small.LN.0", "local", str(os.getpid()))
    owner = one_row.job("local", str(stranger.pid))
    one_row.owned(one_row.directory("small.LN.0"), owner)
    cancelled = []
    monkeypatch.setattr(job_status, "cancel", cancelled.extend)
    plan = one_row.plan()
    cancellation.cancel_runs(plan, plan.runs[:1])
    assert [record.job for record in cancelled] == [owner.job]


def test_cancel_of_a_process_that_just_ended(one_row, stranger, monkeypatch):
    sent = []

    def kill(pid, number):
        sent.append((pid, number))
        raise ProcessLookupError

    with monkeypatch.context() as ended:
        ended.setattr(os, "kill", kill)
        job_status.cancel([one_row.job("local", str(stranger.pid))])
    assert sent == [(stranger.pid, 0), (stranger.pid, signal.SIGTERM)]


def test_cancel_of_a_process_of_another_user_is_refused(one_row, stranger, monkeypatch):
    one_row.given("small.LN.0", "local", str(stranger.pid))

    def refuse(pid, number):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as other_user:
        other_user.setattr(os, "kill", refuse)
        line = one_row.mistake("cancel", "table1")
    assert line == (
        f"process {stranger.pid} on host {socket.gethostname()} is another user's and cannot be "
        "cancelled by this one; ask that user"
    )


def test_cancel_signals_no_process_if_one_of_them_is_refused(one_row, monkeypatch):
    pids = [os.getpid(), os.getppid()]
    for name, pid in zip(("small.LN.0", "small.DyT.0"), pids, strict=True):
        one_row.given(name, "local", str(pid))
    sent = []

    def kill(pid, number):
        if pid == pids[1]:
            raise PermissionError(1, "Operation not permitted")
        sent.append(number)

    with monkeypatch.context() as other_user:
        other_user.setattr(os, "kill", kill)
        assert "is another user's" in one_row.mistake("cancel", "table1")
    assert set(sent) <= {0}, "0 only asks whether a signal could be sent"
    assert "cancelled" not in one_row.json(one_row.directory("small.LN.0") / "job.json")


def test_running_run_hidden_by_hidepid_is_not_submitted_again(one_row, stranger, hidepid):
    one_row.begun("small.LN.0", "local", str(stranger.pid))
    one_row.finish("small.DyT.0", top1=1.0)
    hidepid()
    assert one_row.states()["small.LN.0"] == "running"
    assert "0 of 2 runs submitted" in one_row.cli("submit", "table1")
    assert "cannot be seen from here" in one_row.mistake("cancel", "table1")


def test_hidden_job_between_two_runs_is_live(one_row, stranger, hidepid):
    """It owns neither run at that moment."""
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.given(name, "local", str(stranger.pid), at=time.time() - 7200)
    one_row.finish("small.LN.0", top1=1.0)
    hidepid()
    assert one_row.states()["small.DyT.0"] == "queued"
    result = one_row.directory("small.LN.0") / "result.json"
    os.utime(result, (time.time() - 600,) * 2)
    assert one_row.states()["small.DyT.0"] == "failed"
