"""Typed values of run and job status: job ids, job records, failures."""

import json
import os
import socket
from dataclasses import replace
from tempfile import NamedTemporaryFile
from types import SimpleNamespace

import pytest

from matched import job_status, process_identity, run_directory
from matched.files import DamagedFileError, write_json
from matched.status import ExecutionResult, Failure, FailureKind, JobId, JobRecord, RunStatus, State

SLURM = JobId(cluster="slurm", job_id="12_3")
PROCESS = JobId(cluster="local", host="slurm-login", job_id="4711", identity="b.1.5")


@pytest.mark.parametrize(
    ("job", "text", "description"),
    [
        (SLURM, "slurm:12_3", "slurm job 12_3"),
        (PROCESS, "local:slurm-login:4711:b.1.5", "process 4711 on host slurm-login"),
        (
            replace(PROCESS, identity=""),
            "local:slurm-login:4711",
            "process 4711 on host slurm-login",
        ),
    ],
    ids=["slurm", "process", "process of unknown identity"],
)
def test_job_id_str_and_describe(job, text, description):
    assert (str(job), job.describe()) == (text, description)
    assert JobId.parse(text) == job


def test_job_id_of_a_process_on_a_host_named_slurm():
    """The cluster decides, not the text."""
    assert SLURM.on_slurm and not PROCESS.on_slurm
    assert PROCESS.is_running is None and SLURM.is_running is None


NOT_IDS = ["", "12", "slurm:", "slurm:n2:12", "local:4711", "local::4711", "pbs:12"]


@pytest.mark.parametrize("text", [*NOT_IDS, "local:n2:", "local:n2:7:", "local:n2:7:b:c"])
def test_job_id_parse_refuses_other_text(text):
    with pytest.raises(ValueError, match="is not a job id; expected slurm:ID or local:HOST:PID"):
        JobId.parse(text)


@pytest.mark.parametrize("cluster", ["local", "debug", "here"])
def test_job_id_here_names_the_process_of_this_host(cluster):
    pid = os.getpid()
    job = JobId.here(cluster, str(pid))
    identity = process_identity.identity(pid)
    assert job == JobId(
        cluster="local", host=socket.gethostname(), job_id=str(pid), identity=identity
    )
    assert job.is_running
    assert JobId.here("slurm", "7") == JobId(cluster="slurm", job_id="7")


def test_job_record_as_json_leaves_out_what_is_empty():
    job = JobId(cluster="slurm", job_id="7")
    record = JobRecord(job=job, user="1000", token="t1", folder="", at=0.0)
    written = {"job": "slurm:7", "user": "1000", "token": "t1", "folder": "", "at": 0.0}
    assert record.to_json() == written
    assert JobRecord.from_json({**written, "key of a later version": 1}) == record
    more = replace(record, cancelled="me", submission="s")
    assert more.to_json() == {**written, "cancelled": "me", "submission": "s"}


def test_execution_result_is_shown_by_its_reason_or_state():
    assert str(ExecutionResult(state=State.DONE)) == "done"
    assert str(ExecutionResult(state=State.FAILED, reason="why")) == "why"


def test_states_and_kinds_of_failures_have_the_words_of_files():
    """Files of earlier runs have them, and lists of states are in this order."""
    assert [*State] == ["new", "queued", "running", "failed", "damaged", "diverged", "done"]
    assert [*FailureKind] == ["error", "no_progress", "blocked", "cancelled", "ended"]


def test_states_that_are_finished_or_live():
    assert [state for state in State if state.finished] == ["diverged", "done"]
    assert [state for state in State if state.live] == ["queued", "running"]


def test_job_record_survives_json():
    record = JobRecord(job=PROCESS, user="1000", token="t1", folder="", at=1.5, submission="s")
    text = json.dumps(record.to_json())
    assert JobRecord.from_json(json.loads(text)) == record
    assert "cancelled" not in text


# --- failures of runs


@pytest.fixture
def directory(one_row):
    directory = one_row.directory("small.LN.0")
    directory.prepare()
    return directory


@pytest.mark.parametrize("kind", FailureKind)
def test_failure_json_keeps_kind_and_root(directory, kind):
    failure = Failure(kind=kind, reason="why", token="t1", root_run="0123456789ab")
    directory.write_failure(failure)
    assert directory.failure() == failure
    assert directory.status({}).failure == failure


def test_first_failure_of_an_attempt_is_kept(directory):
    directory.write_failure(Failure(reason="first", token="t1"))
    directory.write_failure(Failure(reason="second", token="t1"))
    assert directory.failure().reason == "first"


def test_job_that_left_nothing_has_ended_or_was_cancelled(one_row, directory):
    directory.write_job(one_row.job("local", "999999999"))
    status = directory.status({})
    assert (status.state, status.failure.kind) == (State.FAILED, FailureKind.ENDED)
    directory.write_job(one_row.job("local", "999999999", cancelled="me"))
    status = directory.status({})
    assert (status.failure.kind, status.reason) == (FailureKind.CANCELLED, "cancelled by me")


def test_blocked_run_is_found_by_kind_not_by_text(one_row):
    """A task's own message may start with the same words."""
    one_row.recipe(
        'START = Run(task="tiny:train", config=Config(model="start"))\n'
        'SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})\n'
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL),))"
    )
    one_row.trouble("says blocked by", "start.LN.0")
    one_row.compute("submit", "table1", "--cluster", "debug", code=1)
    start, small = one_row.plan().runs
    assert start.status.failure.kind is FailureKind.ERROR
    assert small.status.failure.kind is FailureKind.BLOCKED
    assert small.status.failure.root_run == start.run.signature
    assert small.status.reason == (
        f"blocked by tiny:train {start.run.signature} (begin), which is failed: "
        "blocked by a firewall"
    )


def test_now_is_the_time_of_the_folders_file_system(tmp_path, monkeypatch):
    """On NFS, the server's clock also dates the heartbeats, and may differ from this machine's."""
    folders = []

    def on_server(dir=None):
        folders.append(dir)
        return NamedTemporaryFile(dir=dir)

    monkeypatch.setattr(job_status.tempfile, "NamedTemporaryFile", on_server)
    of_server = SimpleNamespace(fstat=lambda _: SimpleNamespace(st_mtime=5.0))
    monkeypatch.setattr(job_status, "os", of_server)
    assert job_status._now(tmp_path) == 5.0 and folders == [tmp_path]
    monkeypatch.setattr(job_status.time, "time", lambda: 7.0)
    assert job_status._now(tmp_path / "none") == 7.0


# --- files of a run directory

COMPLETE = {
    "job": {"job": "slurm:1", "user": "0", "token": "t", "folder": "", "at": 0},
    "failure": {"kind": "error", "reason": "", "token": "t", "at": 0},
    "progress": {"step": 1, "steps": 2, "at": 0},
    "result": {"signature": "", "outcome": "done", "metrics": {}},
}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, content in COMPLETE.items() for key in content]
)
def test_file_without_one_of_its_keys_is_damaged(directory, name, key):
    content = {**COMPLETE[name], "signature": directory.run.signature}
    write_json(directory / f"{name}.json", content)
    assert getattr(directory, name)() is not None
    del content[key]
    write_json(directory / f"{name}.json", content)
    with pytest.raises(DamagedFileError):
        getattr(directory, name)()


def test_version_of_a_file_leaves_it_closed(tmp_path):
    file = tmp_path / "a"
    assert run_directory._version(file) is run_directory._version(file / "below") is None
    before = len(os.listdir("/proc/self/fd"))
    file.write_text("abc")
    found = file.stat()
    versions = {run_directory._version(file) for _ in range(3)}
    assert versions == {(found.st_ino, found.st_mtime_ns, 3)}
    assert len(os.listdir("/proc/self/fd")) <= before


def test_reason_of_a_status_is_its_failure_or_its_damage():
    failure = Failure(reason="out of memory")
    assert RunStatus(state=State.FAILED, failure=failure).reason == "out of memory"
    assert (
        RunStatus(state=State.DAMAGED, damage="result.json is empty").reason
        == "result.json is empty"
    )
    assert RunStatus(state=State.NEW).reason == ""
