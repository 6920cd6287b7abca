"""States of run directories, and the treatment of damaged files."""

import os
import re
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from matched import job_status, run_directory
from matched.files import DamagedFileError, write_json
from matched.status import Failure, FailureKind, JobId, JobStatus, RunStatus, State
from matched.task import write_progress

HERE = socket.gethostname()


@pytest.fixture
def directory(one_row):
    """Return the prepared directory of small · LN · seed 0."""
    directory = one_row.directory("small.LN.0")
    directory.prepare()
    return directory


@pytest.fixture
def given_to(one_row, directory):
    """Return a function that gives the run to a process of this host."""

    def given_to(process, **more):
        one_row.given("small.LN.0", "local", str(process), **more)

    return given_to


def status(directory):
    return directory.status(job_status.job_statuses([directory]))


@pytest.fixture
def dead():
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def alive():
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


# --- states


def test_run_without_directory_is_new(one_row):
    assert set(one_row.states().values()) == {"new"}
    assert not (one_row.root / "runs").exists(), "reading states writes nothing"


def test_prepared_directory_is_new(directory):
    assert status(directory).state is State.NEW


def test_directory_is_named_by_task_and_signature(directory, one_row):
    expected = one_row.root / "runs" / "tiny.train" / directory.run.signature
    assert directory.path == expected and expected.is_dir()
    config = one_row.json(directory / "config.json")
    assert config["signature"] == directory.run.signature
    assert config["config"]["norm"] == "LN"
    assert config["config"]["betas"] == [0.9, 0.999], "defaults are written too"


def test_run_of_a_live_process_is_queued_until_started(directory, given_to, alive):
    given_to(alive)
    assert status(directory).state is State.QUEUED


def test_run_owned_by_a_live_process_is_running(directory, one_row, alive):
    one_row.begun("small.LN.0", "local", str(alive))
    write_progress(directory.path, 3, 10)
    found = status(directory)
    assert (found.state, found.progress["step"]) == (State.RUNNING, 3)


def test_owner_whose_job_is_over_is_not_running(directory, one_row, alive):
    one_row.begun("small.LN.0", "local", str(alive))
    found = directory.status({})
    assert (found.state, found.started) == (State.FAILED, True)


def test_progress_of_an_earlier_attempt_is_not_running(directory, given_to, alive):
    write_json(directory / "progress.json", {"step": 9, "steps": 10, "at": time.time() - 100})
    given_to(alive)
    assert status(directory).state is State.QUEUED


def test_run_of_a_dead_process_has_failed(directory, given_to, dead):
    given_to(dead)
    write_progress(directory.path, 3, 10)
    found = status(directory)
    assert found.state is State.FAILED
    assert f"process {dead} on host {HERE} ended without a result" in found.reason


def test_later_process_with_the_same_pid_is_another(directory, given_to, alive):
    job = JobId.here("local", str(alive))
    where, _, started = job.identity.rpartition(".")
    given_to(alive, job=replace(job, identity=f"{where}.{int(started) - 1}"))
    assert status(directory).state is State.FAILED


def test_run_of_a_zombie_has_failed(directory, given_to):
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    given_to(process.pid)
    assert status(directory).state is State.FAILED
    process.wait()


def test_recent_job_on_other_host_counts_as_live(directory, given_to, dead, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "elsewhere")
        given_to(dead)
    assert status(directory).state is State.QUEUED


def test_failure_has_a_reason(directory, given_to, dead):
    given_to(dead)
    directory.write_failure(Failure(reason="out of memory", token="t1"))
    found = status(directory)
    assert (found.state, found.reason) == (State.FAILED, "out of memory")


def test_failed_run_of_a_running_job_is_failed(directory, given_to, alive):
    given_to(alive)
    directory.write_failure(Failure(reason="out of memory", token="t1"))
    assert status(directory).state is State.FAILED


def test_failure_of_an_earlier_submission_is_ignored(directory, given_to, alive):
    directory.write_failure(Failure(reason="old", token="t0"))
    given_to(alive)
    assert status(directory).state is State.QUEUED


@pytest.mark.parametrize("outcome", ["done", "diverged"])
def test_result_takes_precedence_over_other_files(directory, one_row, alive, outcome):
    one_row.begun("small.LN.0", "local", str(alive))
    directory.write_failure(Failure(reason="an earlier attempt", token="t0"))
    write_progress(directory.path, 3, 10)
    directory.write_result({"outcome": outcome, "metrics": {"top1": 1.0}})
    found = status(directory)
    assert (found.state, found.result["metrics"]) == (State(outcome), {"top1": 1.0})
    assert found.state.finished and not found.state.live
    assert not (directory / "failure.json").exists()


def test_write_result_is_atomic(directory):
    with pytest.raises(TypeError):
        directory.write_result({"outcome": "done", "metrics": {"top1": object()}})
    assert status(directory).state is State.NEW
    assert not list(directory.path.glob("*result*")) + list(directory.path.glob(".*tmp"))


# --- all parts of a status

RUNNING = JobStatus(state=State.RUNNING, detail="RUNNING (None)")
JOB = JobId(cluster="slurm", job_id="41")


def progress_of(directory, step):
    write_progress(directory.path, step, 10)
    return directory.progress()


def test_status_before_any_job_has_failure_and_progress(directory):
    assert directory.status({}) == RunStatus(state=State.NEW)
    progress = progress_of(directory, 3)
    assert directory.status({}) == RunStatus(state=State.NEW, started=True)
    failure = Failure(reason="why", token="t0", root_run="ab", kind=FailureKind.BLOCKED)
    directory.write_failure(failure)
    assert directory.status({}) == RunStatus(
        state=State.FAILED, failure=failure, progress=progress, started=True
    )


def test_status_of_a_running_job_has_its_id_and_progress(one_row, directory):
    one_row.begun("small.LN.0")
    progress = progress_of(directory, 4)
    assert directory.status({JOB: RUNNING}) == RunStatus(
        state=State.RUNNING, progress=progress, job=JOB, job_status=RUNNING, started=True
    )


def test_status_of_a_waiting_run_hides_the_earlier_failure(one_row, directory):
    directory.write_failure(Failure(reason="old", token="t0"))
    one_row.given("small.LN.0")
    waiting = JobStatus(state=State.QUEUED, detail="PENDING (Priority)")
    for job, status in ((JOB, waiting), (JOB, RUNNING)):
        assert directory.status({job: status}) == RunStatus(
            state=State.QUEUED, job=JOB, job_status=status
        )


@pytest.mark.parametrize(
    ("detail", "words"),
    [("OUT_OF_MEMORY", "OUT_OF_MEMORY"), ("", "killed, or the machine went away")],
)
def test_status_of_an_ended_job_names_its_output(one_row, directory, detail, words):
    one_row.given("small.LN.0")
    over = JobStatus(state=None, detail=detail)
    folder = one_row.root / "runs" / ".jobs" / "41"
    reason = f"slurm job 41 ended without a result ({words}); what it printed is in {folder}"
    assert directory.status({JOB: over}) == RunStatus(
        state=State.FAILED,
        failure=Failure(kind=FailureKind.ENDED, reason=reason),
        job=JOB,
        job_status=over,
    )


def test_status_of_a_finished_run_is_its_result_alone(one_row, directory):
    one_row.begun("small.LN.0")
    directory.write_result({"outcome": "diverged", "metrics": {"top1": None}})
    assert (
        directory.finished_status()
        == directory.status({JOB: RUNNING})
        == RunStatus(
            state=State.DIVERGED,
            result={
                "signature": directory.run.signature,
                "outcome": "diverged",
                "metrics": {"top1": None},
            },
        )
    )


def test_write_failure_makes_room_on_a_full_disk(directory, monkeypatch):
    progress_of(directory, 3)
    write = run_directory.write_json

    def full(path, value):
        if (directory / "progress.json").exists():
            raise OSError("No space left on device")
        write(path, value)

    monkeypatch.setattr(run_directory, "write_json", full)
    directory.write_failure(Failure(reason="why", token="t1"))
    assert directory.failure() == Failure(reason="why", token="t1")
    assert "root" not in (directory / "failure.json").read_text(encoding="utf-8")


# --- damage

WHOLE = '{"signature": "%s", "outcome": "done", "metrics": {"top1": 81.0}}'

DAMAGES = {
    "truncated result": ("result.json", WHOLE[:-20]),
    "empty result": ("result.json", ""),
    "result of another signature": ("result.json", WHOLE % "0123456789ab"),
    "result without metrics": ("result.json", '{"signature": "%s", "outcome": "done"}'),
    "result with a metric of text": ("result.json", WHOLE.replace("81.0", '"81 %%"')),
    "result with a list of details": (
        "result.json",
        WHOLE.replace('"done"', '"done", "details": [1]'),
    ),
    "result with another outcome": ("result.json", WHOLE.replace("done", "running")),
    "truncated config": ("config.json", '{"signature": "012'),
    "config of another signature": ("config.json", '{"signature": "0123456789ab"}'),
    "truncated job": ("job.json", '{"job": "slu'),
    "job without an id": ("job.json", "{}"),
    "job with an unknown id": (
        "job.json",
        '{"job": "pbs:7", "user": "0", "token": "t1", "folder": "", "at": 0}',
    ),
    "failure of an unknown kind": (
        "failure.json",
        '{"kind": "mood", "reason": "", "token": "t1", "at": 0}',
    ),
    "truncated failure": ("failure.json", '{"reason": '),
    "truncated progress": ("progress.json", '{"step": 1, '),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_reported_and_can_be_set_aside(one_row, damage):
    name, text = DAMAGES[damage]
    if name in ("result.json", "config.json"):
        one_row.finish("small.LN.0", top1=99.0)
    directory = one_row.directory("small.LN.0")
    directory.prepare()
    if "%s" in text and "another signature" not in damage:
        text %= directory.run.signature
    (directory / name).write_text(text, encoding="utf-8")
    one_row.finish("small.DyT.0", top1=80.0)

    for command in ("status", "table", "submit"):
        told = one_row.cli(command, "table1", code=2)
        assert str(directory / name) in "".join(told.split("\n"))
        assert "`matched retry table1 --scale smoke`" in told
    table = (one_row.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    assert "| Small_1 | damaged | 80.0 | — |" in table
    assert "99.0" not in table and "81.0" not in table

    directory.rename_damaged()
    (kept,) = directory.path.glob(f"{name}.damaged-*")
    assert kept.read_text(encoding="utf-8") == text, "nothing is deleted"
    assert re.fullmatch(rf"{name}\.damaged-\d{{8}}-\d{{6}}", kept.name)
    assert one_row.states() == {"small.LN.0": "new", "small.DyT.0": "done"}


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("result.json", {"signature": "0" * 12}, "is of signature 000000000000, not {signature}"),
        ("result.json", {"outcome": "new"}, "has the outcome 'new', not done or diverged"),
        ("result.json", {"metrics": [1]}, "has metrics that are not numbers"),
        (
            "result.json",
            {"details": {"data": 3}},
            "has data 3 in its details; expected text",
        ),
        ("config.json", {"task": "other"}, "does not describe run {signature}"),
    ],
)
def test_damage_names_the_file_and_what_is_wrong(one_row, name, content, fault):
    directory = one_row.finish("small.LN.0", top1=81.0)
    write_json(directory / name, {**one_row.json(directory / name), **content})
    damage = f"{directory / name} {fault.format(signature=directory.run.signature)}"
    assert directory.status({}) == RunStatus(state=State.DAMAGED, damage=damage)


def test_unfinished_run_with_the_config_of_another_is_damaged(directory):
    write_json(directory / "config.json", {"signature": directory.run.signature, "task": "other"})
    damage = f"{directory / 'config.json'} does not describe run {directory.run.signature}"
    assert directory.finished_status() is None
    assert directory.status({}) == RunStatus(state=State.DAMAGED, damage=damage)


def test_retry_sets_damaged_files_aside_and_computes_again(one_row):
    directory = one_row.finish("small.LN.0", top1=99.0)
    for name in ("result.json", "job.json"):
        (directory / name).write_text("{", encoding="utf-8")
    one_row.finish("small.DyT.0", top1=80.0)
    told = one_row.compute("retry", "table1", "--cluster", "debug")
    for name in ("result.json", "job.json"):
        assert f"set aside: {directory / name}.damaged-" in told
        assert len(list(directory.path.glob(f"{name}.damaged-*"))) == 1
    assert one_row.states() == {"small.LN.0": "done", "small.DyT.0": "done"}
    assert one_row.computed() == ["small.LN.0"]


def test_result_without_config_is_damaged_and_can_be_retried(one_row):
    directory = one_row.finish("small.LN.0", top1=81.0)
    (directory / "config.json").unlink()
    assert "has no config.json next to it" in one_row.cli("status", "table1", code=2)
    one_row.compute("retry", "table1", "--cluster", "debug")
    assert set(one_row.states().values()) == {"done"}


def test_rename_damaged_moves_only_damaged_files(directory):
    directory.write_result({"outcome": "done", "metrics": {}})
    assert directory.rename_damaged() == []
    assert status(directory).state is State.DONE


def test_several_damaged_runs_are_counted(project):
    for name in ("small.LN.0", "small.DyT.0", "large.LN.1"):
        (project.finish(name, top1=1.0) / "result.json").write_text("{", encoding="utf-8")
    assert "(and 2 more)" in project.cli("status", "table1", code=2)


def test_run_refuses_a_damaged_run(one_row):
    directory = one_row.finish("small.LN.0", top1=81.0)
    (directory / "result.json").write_text("{", encoding="utf-8")
    line = one_row.mistake("run", "table1", "--row", "small", "--arm", "LN")
    assert str(directory / "result.json") in line and "matched retry table1" in line


def test_prepare_leaves_a_damaged_config_alone(one_row):
    directory = one_row.finish("small.LN.0", top1=81.0)
    (directory / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"config\.json is not valid JSON"):
        directory.prepare()
    assert (directory / "config.json").read_text(encoding="utf-8") == "{"
