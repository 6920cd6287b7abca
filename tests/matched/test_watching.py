"""Looking at runs while they are at work and after: logs, `status --watch`, read-only folders."""

import os
import signal

import pytest

CELL = ["--row", "small", "--arm", "LN"]


@pytest.fixture
def at_work(one_row):
    """The first run is under way in the background."""
    one_row.trouble("wait", "small.LN.0")
    one_row.background = one_row.start("run", "table1", *CELL)
    one_row.wait_for((one_row.root / "started").exists, one_row.background)
    return one_row


def signature(project, name="small.LN.0"):
    return project.directory(name).run.signature


# --- logs


def with_log(project, name, text):
    (project.finish(name, top1=1.0) / "log.txt").write_text(text, encoding="utf-8")


def test_the_first_digits_of_a_signature_will_do(project):
    with_log(project, "small.LN.0", "of LN\n")
    with_log(project, "small.DyT.0", "of DyT\n")
    for digits in (4, 8, 12):
        assert project.cli("logs", signature(project)[:digits]) == "of LN\n"


def test_digits_that_begin_several_signatures_are_refused_with_all_of_them(project):
    folder = project.root / "runs" / "tiny.train"
    for name in ("abc000000000", "abc111111111", "abd000000000"):
        (folder / name).mkdir(parents=True)
    line = project.mistake("logs", "abc")
    assert line == "abc begins several: abc000000000, abc111111111"


def test_a_signature_that_no_run_has(project):
    line = project.mistake("logs", "0123456789ab")
    assert "/runs has a signature that begins with 0123456789ab" in line


@pytest.mark.parametrize("given", ["table1", "ab", "../..", "*", "0123456789abc", "ABC123", ""])
def test_what_is_no_signature(project, given):
    project.finish("small.LN.0", top1=1.0)
    line = project.mistake("logs", given)
    assert line.startswith(f"{given!r} is no signature: 12 of the digits 0-9 and a-f")
    assert "`matched status` shows every run's" in line


def test_a_log_is_followed_while_its_run_is_at_work(at_work):
    """Lines appear as they are written, until the run ends, however it ends."""
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


def test_status_watches_until_nothing_is_at_work(at_work):
    watcher = at_work.start("status", "table1", "--watch")
    assert watcher.stdout.readline().endswith("small · LN · seed 0: running, 0% (2 to go)\n")
    (at_work.root / "go").touch()
    out, err = watcher.communicate(timeout=30)
    assert (watcher.returncode, err) == (0, "")
    assert "small · LN · seed 0: done top1 80 fid 20 (1 to go)\n" in out
    assert signature(at_work) in out, "and the states at the end"


def test_status_watches_nothing_where_nothing_is_at_work(one_row):
    one_row.finish("small.LN.0", top1=1.0)
    watched = one_row.cli("status", "table1", "-w")
    assert one_row.cli("status", "table1") in watched


def test_watching_can_be_stopped(at_work):
    watcher = at_work.start("status", "table1", "--watch")
    watcher.stdout.readline()
    watcher.send_signal(signal.SIGINT)
    _, err = watcher.communicate(timeout=30)
    assert watcher.returncode == 2 and "Traceback" not in err
    assert at_work.background.poll() is None, "the run goes on"


# --- folders that can only be read


def test_the_table_is_printed_where_it_cannot_be_written(one_row, read_only):
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


def test_runs_of_others_that_can_only_be_read_are_shown(one_row, read_only):
    one_row.finish("small.LN.0", top1=81.25)
    directory = one_row.given("small.DyT.0", "local", "999999999")
    assert directory.path.is_dir()
    read_only(one_row.root / "runs")
    assert "81.25" in one_row.cli("status", "table1", code=1)
    assert "81.2" in one_row.cli("table", "table1", code=1)
    line = one_row.mistake("submit", "table1")
    assert line.startswith(f"{one_row.root}/runs/")
