"""Whole tables through submitit, with a task that takes no time: which runs are computed."""

import os
import signal

import pytest

ALL_DONE = dict.fromkeys(
    [
        f"{model}.{norm}.{seed}"
        for model in ("small", "large")
        for seed in (0, 1)
        for norm in ("LN", "DyT")
    ],
    "done",
)
WITH_NEED = """
START = Run(task="tiny:train", config=Config(model="start"))
SMALL = Run(task="tiny:train", config=Config(model="small"), needs={"begin": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))
"""


# --- debug and local


def test_submit_local_computes_and_prints_a_table(project):
    project.site("[local]\nworkers = 2\n")
    told = project.compute("submit", "table1", "--wait")
    assert "8 of 8 runs submitted in 2 jobs (local)" in told
    assert "Small_1" in told and "80.5 ± 0.7" in told
    assert project.states() == ALL_DONE
    assert sorted(project.computed()) == sorted(ALL_DONE)
    assert (project.root / "results/table1.smoke.csv").exists()


def test_submit_debug_computes_in_this_process(one_row):
    one_row.compute("submit", "table1", "--cluster", "debug")
    assert one_row.states() == {"small.LN.0": "done", "small.DyT.0": "done"}
    assert one_row.computed() == ["small.LN.0", "small.DyT.0"]


def test_second_submit_starts_nothing(one_row):
    one_row.compute("submit", "table1", "--cluster", "debug")
    before = one_row.snapshot()
    told = one_row.compute("submit", "table1", "--wait")
    assert "0 of 2 runs submitted in 0 jobs" in told
    assert one_row.snapshot() == before
    assert len(one_row.computed()) == 2


def test_run_directory_has_the_documented_files(one_row):
    one_row.compute("submit", "table1", "--cluster", "debug")
    directory = one_row.directory("small.LN.0")
    names = {path.name for path in directory.path.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "job.json",
        "owners",
        "fingerprint.json",
        "progress.json",
        "checkpoints",
        "log.txt",
        "result.json",
    }
    environment = one_row.json(directory / "environment.json")
    assert environment["packages"]["submitit"] and environment["cores"] >= 1
    result = one_row.json(directory / "result.json")
    assert result["signature"] == directory.run.signature
    assert (result["outcome"], result["metrics"]["top1"], result["steps"]) == ("done", 80.0, 3)
    assert result["best"] == {"top1": 81.0, "step": 2}


def test_runs_are_computed_without_git(one_row):
    (one_row.programs / "git").unlink()
    one_row.compute("submit", "table1", "--cluster", "debug")
    assert set(one_row.states().values()) == {"done"}
    directory = one_row.directory("small.LN.0")
    assert one_row.json(directory / "environment.json")["commit"] is None


# --- failures and divergence


def test_failing_and_diverging_runs_do_not_stop_their_job(project):
    project.trouble("raise", "small.LN.0")
    project.trouble("diverge", "large.LN.0")
    project.trouble("diverge at once", "large.DyT.0")
    told = project.compute("submit", "table1", "--wait", code=1)
    assert project.states() == {
        **ALL_DONE,
        "small.LN.0": "failed",
        "large.LN.0": "diverged",
        "large.DyT.0": "diverged",
    }
    why = "the tiny task was told to fail [/here] at [data]"
    assert f"small · LN · seed 0: failed {why}" in told
    failed = project.directory("small.LN.0")
    assert project.json(failed / "failure.json")["reason"] == why
    assert not (failed / "result.json").exists()
    assert "Traceback" in (failed / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("trouble", "reason"), [("no outcome", "AttributeError"), ("live metric", "expected a number")]
)
def test_wrong_return_value_fails_one_run(one_row, trouble, reason):
    one_row.trouble(trouble, "small.LN.0")
    one_row.compute("submit", "table1", "--wait", code=1)
    assert one_row.states() == {"small.LN.0": "failed", "small.DyT.0": "done"}
    assert reason in one_row.json(one_row.directory("small.LN.0") / "failure.json")["reason"]


def test_submit_repeats_failed_but_not_diverged_runs(project):
    project.trouble("raise", "small.LN.0")
    project.trouble("diverge", "large.LN.0")
    project.compute("submit", "table1", "--cluster", "debug", code=1)
    project.no_trouble()
    assert "1 of 8 runs submitted" in project.compute("submit", "table1", "--cluster", "debug")
    assert project.states() == {**ALL_DONE, "large.LN.0": "diverged"}
    assert project.computed().count("small.LN.0") == 2
    assert not (project.directory("small.LN.0") / "failure.json").exists()


def test_unknown_task_fails_the_run(one_row):
    one_row.recipe(
        "TABLE = Table(arms=ARMS, scales=("
        "scale(seeds=(0,), small=Run(task='nowhere:train', config=SMALL.config)),))"
    )
    one_row.compute("submit", "table1", "--cluster", "debug", code=1)
    told = " ".join(one_row.cli("status", "table1", code=1).split())
    assert "No module named 'nowhere'" in told


def test_runs_of_a_killed_process_fail_and_are_resubmitted(one_row):
    one_row.trouble("die", "small.LN.0")
    told = one_row.compute("submit", "table1", "--wait", code=1)
    assert "ended without a result (killed, or the machine went away)" in told
    assert one_row.states() == {"small.LN.0": "failed", "small.DyT.0": "failed"}
    one_row.no_trouble()
    assert "2 of 2 runs submitted" in one_row.compute("submit", "table1", "--wait")
    assert set(one_row.states().values()) == {"done"}


# --- while it runs


@pytest.fixture
def at_work(one_row):
    """Return a project whose first run was started by a process in the background."""
    one_row.trouble("wait", "small.LN.0")
    process = one_row.start("run", "table1", "--row", "small", "--arm", "LN")
    one_row.wait_for((one_row.root / "started").exists, process)
    one_row.background = process
    return one_row


def test_running_run_is_not_submitted_again(at_work):
    assert at_work.states() == {"small.LN.0": "running", "small.DyT.0": "new"}
    told = at_work.compute("submit", "table1", "--cluster", "debug")
    assert "1 of 2 runs submitted" in told
    assert at_work.computed() == ["small.LN.0", "small.DyT.0"]
    line = at_work.mistake("run", "table1", "--row", "small", "--arm", "LN")
    assert line.startswith("small · LN · seed 0 is running already")
    assert len(at_work.computed()) == 2
    (at_work.root / "go").touch()
    at_work.background.communicate(timeout=30)
    assert at_work.background.returncode == 0
    assert set(at_work.states().values()) == {"done"}


def test_result_exists_only_after_the_end(at_work):
    directory = at_work.directory("small.LN.0")
    assert not (directory / "result.json").exists()
    (at_work.root / "go").touch()
    at_work.wait_for((directory / "result.json").exists)
    assert at_work.json(directory / "result.json")["outcome"] == "done"


def test_killed_run_is_resumed_by_the_next_submit(at_work):
    os.kill(at_work.background.pid, signal.SIGKILL)
    at_work.background.wait()
    assert at_work.states()["small.LN.0"] == "failed"
    at_work.no_trouble()
    assert "2 of 2 runs submitted" in at_work.compute("submit", "table1", "--cluster", "debug")
    assert set(at_work.states().values()) == {"done"}


def test_logs_follow_a_run_to_its_end(at_work):
    follower = at_work.start("logs", at_work.directory("small.LN.0").run.signature, "--follow")
    assert "starts" in follower.stdout.readline()
    (at_work.root / "go").touch()
    out, err = follower.communicate(timeout=30)
    assert (follower.returncode, err) == (0, "")
    assert "done: {'top1': 80.0" in out, "the last line is printed too"


def test_submit_wait_prints_a_line_per_change(one_row):
    one_row.trouble("wait", "small.LN.0")
    process = one_row.start("submit", "table1", "--wait")
    assert "2 of 2 runs submitted in 1 job" in process.stdout.readline()
    assert process.stdout.readline().endswith("small · LN · seed 0: running, 0% (2 to go)\n")
    (one_row.root / "go").touch()
    out, _ = process.communicate(timeout=30)
    assert "small · LN · seed 0: done top1 80 fid 20" in out
    assert "small · DyT · seed 0: done top1 80.5 fid 19.5 (0 to go)" in out


# --- needs


def test_needs_are_computed_first_and_passed_on(one_row):
    one_row.recipe(WITH_NEED)
    one_row.compute("submit", "table1", "--wait")
    assert one_row.computed() == ["start.LN.0", "small.LN.0", "start.DyT.0", "small.DyT.0"]
    lines = (one_row.root / "computed.txt").read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(" from ")[2] for line in lines] == ["nothing", "begin"] * 2


def test_run_is_blocked_by_a_failed_need(one_row):
    one_row.recipe(WITH_NEED)
    one_row.trouble("raise", "start.LN.0")
    told = one_row.compute("submit", "table1", "--wait", code=1)
    start = next(i for i in one_row.plan().runs if i.run.config.model == "start")
    assert f"blocked by tiny:train {start.run.signature} (begin), which is failed: the tiny" in told
    assert [str(i.status.state) for i in one_row.plan().runs] == [
        "failed",
        "failed",
        "done",
        "done",
    ]
    one_row.no_trouble()
    assert "2 of 4 runs submitted" in one_row.compute("submit", "table1", "--wait")
    assert {str(i.status.state) for i in one_row.plan().runs} == {"done"}


def test_run_computes_what_its_cell_needs(one_row):
    one_row.recipe(WITH_NEED)
    told = one_row.compute("run", "table1", "--row", "small", "--arm", "DyT")
    assert "small · DyT · seed 0" in told
    assert one_row.computed() == ["start.DyT.0", "small.DyT.0"]
