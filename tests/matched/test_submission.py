"""Submissions at the same time, submissions of nothing, and taking back what was submitted."""

import os
import re
import signal
import socket

import pytest

NAMES = ["small.LN.0", "small.DyT.0"]
# Every submission takes a while, so that two at a time would meet.
SBATCH = """
sleep 0.3
n=1; while [ -e "$HOME/sbatch.$n" ]; do n=$((n + 1)); done
echo > "$HOME/sbatch.$n"
echo "Submitted batch job $n"
"""
SQUEUE = """
[ -e "$HOME/sbatch.1" ] && { echo "1_0|1|PENDING|Priority"; echo "1_1|2|PENDING|Priority"; }
true
"""


@pytest.fixture
def slurm(one_row):
    one_row.program("sbatch", SBATCH)
    one_row.program("srun", "")
    one_row.program("squeue", SQUEUE)
    one_row.program("scancel", 'echo "$@" >> "$HOME/cancelled"')
    return one_row


def cancelled(project):
    path = project.root / "cancelled"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def submitted(told):
    """How many runs that submission started."""
    return int(re.search(r"(\d+) of 2 runs submitted", told)[1])


# --- at the same time


def test_of_two_submissions_to_slurm_at_the_same_time_one_finds_nothing_to_do(slurm):
    both = [slurm.start("submit", "table1", "--cluster", "slurm") for _ in range(2)]
    told = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(submitted(out) for out, _ in told) == [0, 2]
    assert len(list(slurm.root.glob("sbatch.*"))) == 1
    assert slurm.json(slurm.directory(NAMES[0]) / "job.json")["job_id"] == "1_0"


def test_of_two_submissions_to_this_machine_at_the_same_time_none_starts_a_run_twice(one_row):
    both = [one_row.start("submit", "table1", "--wait") for _ in range(2)]
    told = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(submitted(out) for out, _ in told) == [0, 2]
    assert sorted(one_row.computed()) == sorted(NAMES)


def test_a_submission_that_was_killed_keeps_nobody_from_submitting(slurm):
    slurm.program("sbatch", 'echo > "$HOME/asked"; exec sleep 60')
    first = slurm.start("submit", "table1", "--cluster", "slurm")
    slurm.wait_for((slurm.root / "asked").exists, first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    slurm.program("sbatch", SBATCH)
    assert submitted(slurm.cli("submit", "table1", "--cluster", "slurm")) == 2


# --- nothing to do


@pytest.mark.parametrize("reason", ["all finished", "all at work"])
@pytest.mark.parametrize("snapshot", [[], ["--snapshot"]], ids=["plain", "snapshot"])
def test_a_submission_of_nothing_writes_nothing(slurm, reason, snapshot):
    for name in NAMES:
        if reason == "all finished":
            slurm.finish(name, top1=1.0)
        else:
            slurm.given(name, "slurm", "1_0")
            slurm.write("sbatch.1", "")
    before = sorted((slurm.root / "runs").rglob("*")), slurm.snapshot()
    for command in ("submit", "retry"):
        told = slurm.cli(command, "table1", "--cluster", "slurm", *snapshot)
        assert "0 of 2 runs submitted in 0 jobs" in told
    assert (sorted((slurm.root / "runs").rglob("*")), slurm.snapshot()) == before


# --- taking it back


def test_cancel_stops_the_runs_of_this_machine_which_save(one_row):
    one_row.trouble("steps", NAMES[0])
    process = one_row.start("submit", "table1", "--wait")
    one_row.wait_for((one_row.root / "started").exists, process)
    assert "2 runs asked to stop, in 1 jobs" in one_row.cli("cancel", "table1")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "small · LN · seed 0: failed cancelled by " in out
    assert list((one_row.directory(NAMES[0]) / "checkpoints").glob("step_*"))
    assert "cancelled by" in one_row.cli("status", "table1", code=1)
    (one_row.root / "go").touch()
    one_row.compute("submit", "table1", "--wait")
    assert set(one_row.states().values()) == {"done"}, "`submit` goes on"


def test_cancel_tells_slurm_which_jobs(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "2 runs asked to stop, in 2 jobs" in slurm.cli("cancel", "table1")
    assert [sorted(line.split()) for line in cancelled(slurm)] == [["1_0", "1_1"]]
    (slurm.root / "sbatch.1").unlink()
    told = slurm.cli("status", "table1", code=1)
    assert told.count("cancelled by") == 2


def test_one_cell_can_be_cancelled_if_its_job_is_its_own(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "1 runs asked" in slurm.cli("cancel", "table1", "--row", "small", "--arm", "DyT")
    assert cancelled(slurm) == ["1_1"]


@pytest.mark.parametrize("some", [["--arm", "LN"], ["--row", "small", "--arm", "DyT"]])
def test_a_job_that_computes_other_cells_too_is_not_cancelled_for_one(slurm, some):
    for name in NAMES:
        slurm.given(name, "slurm", "1_0")
    slurm.write("sbatch.1", "")
    line = slurm.mistake("cancel", "table1", *some)
    other = "LN" if some[-1] == "DyT" else "DyT"
    assert line.startswith(f"slurm job 1_0 computes other runs too (small · {other} · seed 0)")
    assert "name no row, arm or seed" in line
    assert cancelled(slurm) == []
    assert "cancelled" not in slurm.json(slurm.directory(NAMES[0]) / "job.json")


def test_cancel_by_a_user_number_without_a_name(slurm, monkeypatch):
    """As in a container whose passwd lacks the user."""

    def no_name(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_name)
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "2 runs asked to stop, in 2 jobs" in slurm.cli("cancel", "table1")
    job = slurm.json(slurm.directory(NAMES[0]) / "job.json")
    assert job["cancelled"].startswith(f"user {os.getuid()}, ")


def test_there_may_be_nothing_to_cancel(one_row):
    one_row.finish(NAMES[0], top1=1.0)
    assert "0 runs asked to stop" in one_row.cli("cancel", "table1")
    assert "0 runs asked to stop" in one_row.cli("cancel", "table1", "--seed", "99")


def test_slurm_may_refuse_to_cancel(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    slurm.program("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    line = slurm.mistake("cancel", "table1")
    assert line == "scancel failed: scancel: error: Access denied"
    assert set(slurm.states().values()) == {"queued"}
    assert "cancelled" not in slurm.json(slurm.directory(NAMES[0]) / "job.json")


def test_a_process_of_another_machine_has_to_be_cancelled_there(one_row, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "far")
        one_row.given(NAMES[0], "local", "7")
    line = one_row.mistake("cancel", "table1")
    assert line == "process 7 on far can be cancelled on that host only"
    assert "cancelled" not in one_row.json(one_row.directory(NAMES[0]) / "job.json")
