"""Views of running and finished runs: logs, ``status --watch``, read-only folders."""

import io
import os
import signal
import time

import pytest
from rich.console import Console

from matched import job_status, watch
from matched.task import write_progress

CELL = ["--row", "small", "--arm", "LN"]


@pytest.fixture
def at_work(one_row):
    """Start the first run in the background."""
    one_row.trouble("wait", "small.LN.0")
    one_row.background = one_row.start("run", "table1", *CELL)
    one_row.wait_for((one_row.root / "started").exists, one_row.background)
    return one_row


def signature(project, name="small.LN.0"):
    return project.directory(name).run.signature


# --- logs


def with_log(project, name, text):
    (project.finish(name, top1=1.0) / "log.txt").write_text(text, encoding="utf-8")


def test_logs_accepts_the_first_digits_of_a_signature(project):
    with_log(project, "small.LN.0", "of LN\n")
    with_log(project, "small.DyT.0", "of DyT\n")
    for digits in (4, 8, 12):
        assert project.cli("logs", signature(project)[:digits]) == "of LN\n"


def test_logs_refuses_ambiguous_digits(project):
    folder = project.root / "runs" / "tiny.train"
    for name in ("abc000000000", "abc111111111", "abd000000000"):
        (folder / name).mkdir(parents=True)
    line = project.mistake("logs", "abc")
    assert line == "several signatures start with abc: abc000000000, abc111111111"


def test_logs_refuses_an_unknown_signature(project):
    line = project.mistake("logs", "0123456789ab")
    assert line == f"no run below {project.root}/runs has a signature that starts with 0123456789ab"


@pytest.mark.parametrize("given", ["table1", "ab", "../..", "*", "0123456789abc", "ABC123", ""])
def test_logs_refuses_what_is_not_a_signature(project, given):
    project.finish("small.LN.0", top1=1.0)
    line = project.mistake("logs", given)
    assert line == (
        f"{given!r} is not a signature; expected 12 of the digits 0-9 and a-f, or at least the "
        "first 3; `matched status` shows every run's"
    )


def test_logs_follow_prints_lines_until_the_run_ends(at_work):
    """Lines appear as they are written, until the run ends; here it is killed."""
    follower = at_work.start("logs", "-f", signature(at_work)[:6])
    assert "starts (process 0 of 1)" in follower.stdout.readline()
    log = at_work.directory("small.LN.0") / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        file.write("a line of the run\n")
    assert follower.stdout.readline() == "a line of the run\n"
    assert follower.poll() is None
    with log.open("a", encoding="utf-8") as file:
        file.write("its last words\n")
    os.kill(at_work.background.pid, signal.SIGKILL)
    at_work.background.wait()
    out, err = follower.communicate(timeout=30)
    assert (follower.returncode, out, err) == (0, "its last words\n", "")


# --- status --watch


def test_status_watch_ends_with_the_last_running_run(at_work):
    watcher = at_work.start("status", "table1", "--watch")
    assert watcher.stdout.readline().endswith("small · LN · seed 0: running, 0% (2 to go)\n")
    (at_work.root / "go").touch()
    out, err = watcher.communicate(timeout=30)
    assert (watcher.returncode, err) == (0, "")
    assert "small · LN · seed 0: done top1 80 fid 20 (1 to go)\n" in out
    assert signature(at_work) in out, "and the states at the end"


def test_status_watch_ends_at_once_without_live_runs(one_row):
    one_row.finish("small.LN.0", top1=1.0)
    watched = one_row.cli("status", "table1", "-w")
    assert one_row.cli("status", "table1") in watched


def test_status_watch_can_be_interrupted(at_work):
    watcher = at_work.start("status", "table1", "--watch")
    watcher.stdout.readline()
    watcher.send_signal(signal.SIGINT)
    _, err = watcher.communicate(timeout=30)
    assert watcher.returncode == 2 and "Traceback" not in err
    assert at_work.background.poll() is None, "the run goes on"


# --- read-only folders


def test_table_is_printed_if_results_are_read_only(one_row, read_only):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=81.25)
    results = one_row.root / "results"
    results.mkdir()
    read_only(results)
    told = one_row.cli("table", "table1", code=2)
    assert "Small_1" in told and "81.2" in told
    (line,) = (line for line in told.splitlines() if line.startswith("matched: error:"))
    assert line.startswith(f"matched: error: {results}/")
    assert list(results.iterdir()) == []


def test_read_only_runs_are_shown(one_row, read_only):
    one_row.finish("small.LN.0", top1=81.25)
    directory = one_row.given("small.DyT.0", "local", "999999999")
    assert directory.path.is_dir()
    read_only(one_row.root / "runs")
    assert "81.25" in one_row.cli("status", "table1", code=1)
    assert "81.2" in one_row.cli("table", "table1", code=1)
    line = one_row.mistake("submit", "table1")
    assert line.startswith(f"{one_row.root}/runs/")


# --- a plan is made once


def edit(project):
    """Change and break the files that the plan was made from, with time to look at each change."""
    recipe = project.root / "recipes" / "first" / "table01.py"
    for change in (
        lambda: project.site(f'[runs]\nfolder = "{project.root}/elsewhere"\n'),
        lambda: project.recipe(
            "TABLE = Table(arms=ARMS, scales=(scale(seeds=(5, 6), large=LARGE),))"
        ),
        lambda: recipe.write_text("TABLE = ", encoding="utf-8"),
        lambda: project.site("[local\n"),
        recipe.unlink,
    ):
        change()
        time.sleep(0.1)  # two intervals, see HASTE


def test_submit_wait_does_not_read_recipe_or_site_again(one_row):
    one_row.trouble("wait", "small.LN.0")
    process = one_row.start("submit", "table1", "--wait")
    one_row.wait_for((one_row.root / "started").exists, process)
    edit(one_row)
    (one_row.root / "go").touch()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "small · DyT · seed 0: done top1 80.5 fid 19.5 (0 to go)" in out
    assert "Small_1" in out and "2/2" in out, "the table of the plan that was made"


def test_status_watch_does_not_read_recipe_or_site_again(at_work):
    watcher = at_work.start("status", "table1", "--watch")
    assert "running, 0% (2 to go)" in watcher.stdout.readline()
    edit(at_work)
    (at_work.root / "go").touch()
    out, err = watcher.communicate(timeout=30)
    assert (watcher.returncode, err) == (0, "")
    assert "small · LN · seed 0: done top1 80 fid 20 (1 to go)\n" in out


def test_refreshed_does_not_read_finished_runs(one_row):
    one_row.finish("small.LN.0", top1=1.0)
    plan = one_row.plan()
    (one_row.directory("small.LN.0") / "result.json").write_text("{", encoding="utf-8")
    one_row.finish("small.DyT.0", top1=2.0)
    again = plan.refreshed()
    assert [planned.status.state for planned in again.runs] == ["done", "done"]
    assert again.runs[0] is plan.runs[0]
    assert again.runs[1].status.result["metrics"] == {"top1": 2.0}
    assert not again.unfinished


def test_refreshed_keeps_a_run_whose_state_has_not_changed(one_row):
    directory = one_row.begun("small.LN.0", "local", str(os.getpid()))
    plan = one_row.plan().refreshed()
    assert all(new is old for new, old in zip(plan.refreshed().runs, plan.runs, strict=True))
    write_progress(directory.path, 2, 10)
    again = plan.refreshed()
    assert again.runs[0].status.progress["step"] == 2 and again.runs[1] is plan.runs[1]


def test_refreshed_parses_a_file_only_after_it_was_replaced(one_row, parsed):
    directory = one_row.begun("small.LN.0", "local", str(os.getpid()))
    plan = one_row.plan().refreshed()
    parsed.clear()
    for _ in range(3):
        plan = plan.refreshed()
    assert parsed == []
    write_progress(directory.path, 2, 10)
    assert plan.refreshed().runs[0].status.progress["step"] == 2
    assert parsed == ["progress.json"]


def test_refreshed_sees_damage_and_repair(one_row):
    directory = one_row.begun("small.LN.0", "local", str(os.getpid()))
    plan = one_row.plan().refreshed()
    content = (directory / "job.json").read_text(encoding="utf-8")
    (directory / "job.json").write_text("{", encoding="utf-8")
    plan = plan.refreshed()
    assert plan.runs[0].status.state == "damaged"
    (directory / "job.json").write_text(content, encoding="utf-8")
    assert plan.refreshed().runs[0].status.state == "running"


def test_slurm_queue_caches_answers_for_slurm_seconds(one_row, monkeypatch):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.given(name)
    answer = 'echo asked >> "$HOME/asked"; echo "41_N/A|41|PENDING|Priority"'
    one_row.program("squeue", answer)
    plan, queue = one_row.plan(), job_status.SlurmQueue()
    asked = one_row.root / "asked"
    asked.unlink()
    for _ in range(3):
        plan = plan.refreshed(queue)
    assert asked.read_text(encoding="utf-8").count("asked") == 1
    one_row.given("small.DyT.0", job_id="42")  # the last answer is not about this job
    plan = plan.refreshed(queue)
    assert asked.read_text(encoding="utf-8").count("asked") == 2
    monkeypatch.setattr(job_status, "SLURM_SECONDS", 0)
    plan.refreshed(queue)
    assert asked.read_text(encoding="utf-8").count("asked") == 3


@pytest.mark.parametrize("patience", [600.0, 0.0])
def test_watch_survives_a_slurm_that_does_not_answer_for_a_while(one_row, monkeypatch, patience):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.given(name)
    one_row.program("squeue", 'echo "41_N/A|41|PENDING|Priority"')
    plan = one_row.plan()
    one_row.program(
        "squeue",
        'if [ -e "$HOME/asked twice" ]; then echo "41_N/A|41|COMPLETED|None"; exit; fi\n'
        '[ -e "$HOME/asked" ] && : > "$HOME/asked twice"\n'
        ': > "$HOME/asked"; exit 1',
    )
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "SLURM_PATIENCE", patience)
    console = Console(file=io.StringIO())
    if not patience:
        with pytest.raises(ValueError, match="squeue failed"):
            watch.wait(plan, [], console)
        return
    states = [planned.status.state for planned in watch.wait(plan, [], console).runs]
    assert states == ["failed", "failed"], "the job ended without a result"
