"""Status of jobs: Slurm's states, commands and cache, records, and heartbeats."""

import os
import time
from dataclasses import replace

import pytest

from matched import job_status
from matched.job_status import SlurmQueue
from matched.status import JobId, JobRecord, JobStatus, State


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Priority", JobStatus(state=State.QUEUED, detail="PENDING (Priority)")),
        ("PENDING", "None", JobStatus(state=State.QUEUED, detail="PENDING")),
        ("RUNNING", "", JobStatus(state=State.RUNNING, detail="RUNNING")),
        ("CANCELLED by 1000", "", JobStatus(state=None, detail="CANCELLED by 1000")),
        ("CANCELLED+", "", JobStatus(state=None, detail="CANCELLED+")),
        ("TIMEOUT", "TimeLimit", JobStatus(state=None, detail="TIMEOUT")),
        ("", "", JobStatus(state=None, detail="")),
        (" ", "", JobStatus(state=None, detail=" ")),
    ],
)
def test_slurm_status_is_state_and_reason(state, reason, expected):
    assert job_status._slurm_status(state, reason) == expected


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo ' access denied ' >&2; exit 1", "tool failed: access denied"),
        ("exit 3", "tool failed: 3"),
        ("printf 'caf\\351' >&2; exit 1", "tool failed: caf\N{REPLACEMENT CHARACTER}"),
        (
            None,
            "tool cannot be run (No such file or directory); run this where Slurm's commands are "
            "on PATH",
        ),
        (
            "not executable",
            "tool cannot be run (Permission denied); run this where Slurm's commands are on PATH",
        ),
    ],
    ids=["message", "exit code", "other encoding", "missing", "not executable"],
)
def test_failure_of_a_slurm_command_is_one_line(project, script, message):
    if script is not None:
        project.program("tool", script)
    if script == "not executable":
        (project.programs / "tool").chmod(0o644)
    with pytest.raises(ValueError) as refusal:
        job_status._run_command("tool", "-a")
    assert str(refusal.value) == message


def test_slurm_command_gets_its_arguments_and_no_input(project):
    project.program("tool", 'echo "$@"; cat')
    assert job_status._run_command("tool", "-a", "b c") == "-a b c\n"


def test_slurm_queue_asks_again_for_old_answers_and_further_jobs(monkeypatch):
    seconds, asked = [100.0], []
    monkeypatch.setattr(job_status.time, "monotonic", lambda: seconds[0])

    def ask(users):
        asked.append(dict(users))
        return {job_id: JobStatus(state=State.QUEUED, detail=f"{len(asked)}") for job_id in users}

    monkeypatch.setattr(job_status, "_ask_slurm", ask)
    queue, both, one = SlurmQueue(), {"41": "1000", "42": "1001"}, {"42": "1001"}
    assert queue.statuses({}) == {} and asked == []
    for after, users in ((0, both), (14.9, one), (0.2, one), (0, one), (0, both), (14, both)):
        seconds[0] += after
        answer = queue.statuses(users)
        assert answer.keys() >= users.keys()
        assert {status.detail for status in answer.values()} == {f"{len(asked)}"}
    assert asked == [both, one, both]


def test_job_record_names_user_host_and_time(monkeypatch, tmp_path):
    monkeypatch.setattr(job_status.time, "time", lambda: 5.5)
    user = str(os.getuid())
    expected = JobRecord(
        job=JobId(cluster="slurm", job_id="41"), user=user, token="t1", folder="a/b", at=5.5
    )
    assert job_status.job_record("slurm", "41", "t1", "a/b") == expected
    assert job_status.job_record("local", "7", "t2", tmp_path) == replace(
        expected, job=JobId.here("local", "7"), token="t2", folder=str(tmp_path)
    )


@pytest.mark.parametrize(
    ("host", "silence", "expected"),
    [
        ("far", 119.9, JobStatus(state=State.RUNNING)),
        ("far", 120.0, JobStatus(state=None, detail="no heartbeat from far for 2 min")),
        ("far", 610.0, JobStatus(state=None, detail="no heartbeat from far for 10 min")),
        ("", 610.0, JobStatus(state=None, detail="no heartbeat for 10 min")),
    ],
)
def test_heartbeat_status_after_two_minutes_of_silence(host, silence, expected):
    job = JobId(cluster="local" if host else "slurm", host=host, job_id="7")
    assert job_status._heartbeat_status(job, silence) == expected


def test_owner_status_is_that_of_its_heartbeat(one_row):
    directory = one_row.given("small.LN.0")
    assert job_status.owner_status(directory) == {}
    job = one_row.job(job_id="42")
    owned = one_row.owned(directory, job)
    owned.release()
    for seconds, status in (
        (60, JobStatus(state=State.RUNNING)),
        (600, JobStatus(state=None, detail="no heartbeat for 10 min")),
    ):
        os.utime(owned.path, (time.time() - seconds,) * 2)
        assert job_status.owner_status(directory) == {job.job: status}
