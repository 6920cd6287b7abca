"""Output in a terminal of 80 columns: bars, tables, and no traceback."""

import os
import pty
import re
import subprocess
import sys

import pytest

from matched.task import write_progress

CELL = ["--row", "small", "--arm", "LN"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture
def terminal(one_row):
    """Return a function that runs ``matched`` in a terminal: exit code and all output."""

    def run(*arguments):
        ours, theirs = pty.openpty()
        environment = {**one_row.environment, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
        process = subprocess.Popen(
            [sys.executable, "-m", "matched", *arguments],
            cwd=one_row.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        text = b""
        while chunk := _read(ours):
            text += chunk
        os.close(ours)
        return process.wait(), CONTROL.sub("", text.decode())

    return run


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # raised when the last program of the terminal has ended
        return b""


def test_submit_wait_shows_bars_and_the_table(one_row, terminal):
    code, told = terminal("submit", "table1", "--wait")
    assert code == 0
    assert "2 of 2 runs finished (2 done)" in told
    assert "Small_1" in told and "80.0" in told


def test_submit_wait_shows_failures(one_row, terminal):
    one_row.trouble("raise", "small.LN.0")
    code, told = terminal("submit", "table1", "--wait")
    assert code == 1
    assert "1 failed" in told and "[/here] at [data]" in told
    assert "Traceback" not in told


def test_run_of_a_failing_cell_ends_in_one_line(one_row, terminal):
    one_row.trouble("raise", "small.LN.0")
    code, told = terminal("run", "table1", *CELL)
    assert code == 2
    assert "matched: error: the tiny task was told to fail [/here] at [data]" in told
    assert "Traceback" not in told


def test_run_shows_bars_for_a_run_that_failed_before(one_row, terminal):
    """Its progress is known when the bars are created."""
    one_row.trouble("raise", "small.LN.0")
    terminal("run", "table1", *CELL)
    write_progress(one_row.directory("small.LN.0").path, 3, 10)
    one_row.no_trouble()
    code, told = terminal("run", "table1", *CELL)
    assert code == 0 and "done  top1 80" in told
    assert "Traceback" not in told


def test_run_shows_a_bar_and_the_result(one_row, terminal):
    code, told = terminal("run", "table1", *CELL)
    assert code == 0
    assert "done  top1 80" in told


def test_table_fits_eighty_columns(one_row, terminal):
    one_row.finish("small.LN.0", top1=80.0)
    one_row.finish("small.DyT.0", top1=81.0)
    _, told = terminal("table", "table1")
    (line,) = (line for line in told.splitlines() if line.lstrip().startswith("Small_1"))
    assert line.split() == ["Small_1", "80.0", "81.0", "+1.0", "82.3", "82.5", "+0.2", "2/2", "yes"]


# --- terminals that lack characters


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_table_prints_what_the_encoding_of_stdout_has(one_row, encoding):
    paper = one_row.root / "recipes" / "paper.toml"
    caption = "Zwei Modelle → α ± Δ, 模型"
    text = paper.read_text(encoding="utf-8").replace("Two models & two norms", caption)
    paper.write_text(text.replace('label = "Small_1"', 'label = "Größe α"'), encoding="utf-8")
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=81.25)
    one_row.environment |= {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "matched", "table", "table1"],
        cwd=one_row.root,
        env=one_row.environment,
        capture_output=True,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    shown = "Größe α".encode(encoding, errors="replace").decode(encoding)
    assert shown in process.stdout.decode(encoding) and b"81.2" in process.stdout
    for suffix in ("md", "csv", "tex"):
        result = one_row.root / "results" / f"table1.smoke.{suffix}"
        assert "Größe" in result.read_text(encoding="utf-8")
    markdown = (one_row.root / "results" / "table1.smoke.md").read_text(encoding="utf-8")
    assert caption in markdown


def test_results_are_written_before_the_table_is_printed(one_row, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "/dev/stdout")

    monkeypatch.setattr("matched.table_formats.print_table", full)
    assert one_row.mistake("table", "table1") == "/dev/stdout: No space left on device"
    assert (one_row.root / "results" / "table1.smoke.md").exists()


def test_one_line_errors_fit_the_encoding_of_stderr(one_row):
    one_row.environment["PYTHONIOENCODING"] = "ascii:strict"
    process = one_row.start("table", "täble")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.startswith("matched: error: unknown table: 't?ble'")
