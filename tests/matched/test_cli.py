"""Every command on a tiny project: output, exit code and refusals."""

import json
import os
import subprocess
import sys

import pytest

from matched.status import Failure

CELL = ["--row", "small", "--arm", "LN"]


# --- plan and status


def test_plan_of_a_finished_table(one_row):
    for name in ("small.LN.0", "small.DyT.0"):
        one_row.finish(name, top1=1.0)
    told = one_row.cli("plan", "table1", "--cluster", "slurm")
    assert "0 of 2 runs to do, in 0 jobs" in told and "#SBATCH" not in told


def test_table_is_not_cut_off_in_a_pipe(project):
    """The names of arms may be of any length."""
    project.recipe(
        "MORE = tuple(Arm(name=f'DyT, alpha0 {i}' + 60 * '!', norm=f'x{i}') for i in range(5))\n"
        "TABLE = Table(arms=(*ARMS, *MORE), scales=(scale(seeds=(0,), small=SMALL),))"
    )
    project.finish("small.x4.0", top1=84.25)
    told = project.cli("table", "table1")
    assert "…" not in told and f"DyT, alpha0 4{60 * '!'}" in told and "84.2" in told


# --- run


def test_report_ends_quietly_with_the_reader_of_its_pipe(project):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "matched", "report"]
    # Without a buffer, the command itself would fail, and not its end.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(write) as pipe:
        process = subprocess.run(
            command,
            cwd=project.root,
            env=env,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (process.returncode, process.stderr) == (1, "")


def test_run_computes_one_cell_in_the_foreground(project):
    told = project.compute("run", "table1", "--row", "small", "--arm", "DyT", "--seed", "1")
    assert "small · DyT · seed 1" in told and "done  top1 81.5" in told
    assert project.computed() == ["small.DyT.1"]


def test_run_takes_the_first_seed(project):
    project.compute("run", "table1", *CELL)
    assert project.computed() == ["small.LN.0"]


def test_run_of_a_finished_cell_computes_nothing(project):
    project.finish("small.LN.0", top1=81.25)
    assert "done  top1 81.25" in project.cli("run", "table1", *CELL)


def test_run_of_a_failing_cell(one_row):
    """One line is printed; the traceback is in the log."""
    one_row.trouble("raise", "small.LN.0")
    told = one_row.compute("run", "table1", *CELL, code=2)
    why = "the tiny task was told to fail [/here] at [data]"
    assert told.splitlines()[-1] == f"matched: error: {why}"
    log = (one_row.directory("small.LN.0") / "log.txt").read_text(encoding="utf-8")
    assert "Traceback" in log and "tiny.py" in log
    assert one_row.states()["small.LN.0"] == "failed"
    one_row.no_trouble()
    one_row.compute("run", "table1", *CELL)
    assert one_row.states()["small.LN.0"] == "done"


def test_run_of_a_diverging_cell_is_no_failure(one_row):
    one_row.trouble("diverge", "small.LN.0")
    assert "diverged  top1 40" in one_row.compute("run", "table1", *CELL)


# --- logs, retry


def test_logs_prints_the_log(project):
    directory = project.finish("small.LN.0", top1=1.0)
    (directory / "log.txt").write_text("one [data]\ntwo ± three\n", encoding="utf-8")
    signature = directory.run.signature
    assert project.cli("logs", signature) == "one [data]\ntwo ± three\n"
    assert project.cli("logs", signature, "--follow") == "one [data]\ntwo ± three\n"


def test_retry_repeats_failed_runs_only(one_row):
    one_row.finish("small.DyT.0", prints=False, top1=1.0)
    one_row.directory("small.LN.0").prepare()
    one_row.directory("small.LN.0").write_failure(Failure(reason="no memory"))
    told = one_row.compute("retry", "table1", "--wait")
    assert "1 of 2 runs submitted" in told and "Small_1" in told
    assert one_row.computed() == ["small.LN.0"]


# --- mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["plan"],
        ["run", "table1"],
        ["run", "table1", "--row", "small"],
        ["run", "table1", *CELL, "--seed", "first"],
        ["plan", "table1", "--scal", "x", "--what"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_refused(project, arguments):
    process = project.start(*arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("matched") and "error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["plan", "submit", "retry"])
def test_unknown_cluster_is_refused(project, command):
    message = project.mistake(command, "table1", "--cluster", "slrum")
    assert message == "unknown cluster: 'slrum'; known, nearest first: slurm, local, debug"


def test_unreadable_file_is_named(project, monkeypatch):
    """Root may read every file, so the error is raised by a patched ``open``."""
    path = project.finish("small.LN.0", top1=1.0) / "result.json"

    def refuse(file, *rest, **more):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(file, *rest, **more)

    real = open
    monkeypatch.setattr("builtins.open", refuse)
    assert project.mistake("status", "table1") == f"{path}: Permission denied"


def test_results_folder_that_is_a_file_is_named(project):
    project.write("results", "")
    assert project.mistake("table", "table1").startswith(f"{project.root}/results")


# --- speed


CODE = """
import json, sys
from matched.cli import main
try:
    main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print(json.dumps([code, [m for m in ("torch", "numpy", "timm") if m in sys.modules]]))
"""


# `table` of the committed recipe would write to the results of the checkout.
@pytest.mark.parametrize(
    ("recipe", "command"),
    [("tiny", name) for name in ("list", "plan", "status", "table", "audit")]
    + [("committed", name) for name in ("list", "plan", "status", "audit")],
)
def test_read_only_commands_import_no_torch(project, command, recipe):
    environment = {**project.environment, "PYTHONPATH": str(project.stand_ins)}
    if recipe == "committed":
        environment |= {"MATCHED_ROOT": str(project.checkout), "MATCHED_SITE": ""}
    arguments = [command] if command == "list" else [command, "table1"]
    answer = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    code, loaded = json.loads(answer.stdout.splitlines()[-1])
    assert loaded == []
    if recipe == "tiny":
        assert code == 0
