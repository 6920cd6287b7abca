"""Whether a run is still at work on Slurm, as squeue tells it."""

import time
from pathlib import Path

import pytest

from matched import jobs
from matched.worker import write_progress

NAMES = ["small.LN.0", "small.DyT.0", "small.LN.1", "small.DyT.1", "large.LN.0"]


def given_to_slurm(project, name, job_id):
    directory = project.directory(name)
    directory.prepare()
    jobs.record(directory, "slurm", job_id, Path("/scratch/jobs"), time.time() - 10)
    return directory


def squeue(project, *lines):
    """A squeue that answers what the format ``%F_%K|%A|%T`` gives, and notes how it was asked."""
    text = "".join(f"{line}\n" for line in lines)
    project.program("squeue", f'echo "$@" >> "$HOME/asked"\ncat <<END\n{text}END')


def test_states_of_single_jobs_and_of_array_tasks(project):
    for name, job_id in zip(NAMES, ["41", "42_0", "42_1", "42_2", "43"], strict=True):
        write_progress(given_to_slurm(project, name, job_id).path, 1, 10)
    squeue(
        project,
        "41_N/A|41|RUNNING",
        "42_0|44|RUNNING",
        "42_1|45|PENDING",
        "999_0|999|RUNNING",
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


def test_a_pack_that_runs_has_runs_that_wait(one_row):
    """The job is at work, but on another of its runs."""
    for name in ("small.LN.0", "small.DyT.0"):
        directory = given_to_slurm(one_row, name, "41")
    write_progress(directory.path, 1, 10)
    squeue(one_row, "41_N/A|41|RUNNING")
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
def test_words_of_squeue(one_row, word, state):
    write_progress(given_to_slurm(one_row, "small.LN.0", "41").path, 1, 10)
    squeue(one_row, f"41_N/A|41|{word}")
    assert one_row.states()["small.LN.0"] == state


def test_squeue_is_asked_once_and_only_if_there_is_something_to_ask(project):
    squeue(project)
    project.states()
    assert not (project.root / "asked").exists()
    for name in NAMES:
        given_to_slurm(project, name, "41")
    project.plan()
    (asked,) = (project.root / "asked").read_text(encoding="utf-8").splitlines()
    assert asked == "--me --noheader --array --format=%F_%K|%A|%T"


def test_finished_runs_need_no_squeue(one_row):
    for name in ("small.LN.0", "small.DyT.0"):
        given_to_slurm(one_row, name, "41")
        one_row.finish(name, top1=1.0)
    assert set(one_row.states().values()) == {"done"}


def test_without_squeue_the_states_cannot_be_told(one_row):
    given_to_slurm(one_row, "small.LN.0", "41")
    line = one_row.mistake("status", "table1")
    assert "there is no squeue here; ask from a machine of the cluster" in line


def test_a_squeue_that_fails_is_quoted(one_row):
    given_to_slurm(one_row, "small.LN.0", "41")
    one_row.program("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    line = one_row.mistake("status", "table1")
    assert line == "squeue failed: slurm_load_jobs error: Unable to contact"


def test_a_squeue_that_never_answers(one_row, monkeypatch):
    given_to_slurm(one_row, "small.LN.0", "41")
    one_row.program("squeue", "exec sleep 60")
    monkeypatch.setattr(jobs, "PATIENCE", 0.05)
    assert one_row.mistake("status", "table1").startswith("squeue gave no answer in 0.05 s")


def test_a_living_job_is_left_alone(one_row):
    for name in ("small.LN.0", "small.DyT.0"):
        given_to_slurm(one_row, name, "41")
    squeue(one_row, "41_N/A|41|PENDING")
    before = one_row.snapshot()
    assert "0 of 2 runs submitted in 0 jobs" in one_row.cli("submit", "table1")
    assert one_row.snapshot() == before
