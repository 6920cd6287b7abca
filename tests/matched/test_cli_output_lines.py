"""Output of commands: sizes, processes, requests, hours, and progress of runs."""

import io
import logging
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from matched import Resources, cli, cli_output, slurm_summary, submission
from matched.cli_output import _hours_by_stage, _jobs, _processes, _size
from matched.job_packing import PackedJob
from matched.slurm_summary import Stage
from matched.status import Failure
from matched.task import write_progress


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.0 MB"),
        (3 << 19, "1.5 MB"),
        (99_999_999, "95.4 MB"),
        (100_000_000, "0.1 GB"),
        (5 << 29, "2.5 GB"),
        (2000 << 30, "2,000.0 GB"),
    ],
)
def test_size_is_in_binary_megabytes_or_gigabytes(number, text):
    assert _size(number) == text


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"gpus": 8}, "8"),
        ({"processes": 3}, "3"),
        ({"gpus": 8, "shard": True}, "8 = 1 × 8"),
        ({"gpus": 8, "shard": True, "shard_degree": 2}, "8 = 4 × 2"),
        ({"gpus": 1, "shard": True}, "1"),
    ],
    ids=str,
)
def test_processes_of_sharded_runs_are_copies_times_parts(resources, text):
    assert _processes(Resources(minutes=1, **resources)) == text


@pytest.mark.parametrize(
    ("jobs", "text"),
    [
        ([(1, 0, 0)], "table1-train: 1 job of 1 run"),
        ([(2, 0, 0), (4, 0, 0), (1, 0, 0)], "table1-train: 3 jobs of 4 runs"),
        ([(1, 1, 0)], "table1-train: 1 job of 1 run, after 1 other"),
        ([(1, 1, 2), (1, 0, 1)], "table1-train: 2 jobs of 1 run, each after 3 others"),
    ],
)
def test_jobs_of_a_request_are_counted(jobs, text):
    """Runs, and dependencies in this and earlier submissions, of each job."""
    packed = [
        PackedJob(
            runs=(None,) * runs,
            resources=Resources(minutes=1),
            after=tuple(range(after)),
            after_ids=tuple("ab"[:earlier]),
        )
        for runs, after, earlier in jobs
    ]
    packed.insert(0, PackedJob(runs=(None,) * 9, resources=Resources(minutes=1)))
    request = SimpleNamespace(name="table1-train", jobs=range(1, len(packed)))
    assert _jobs(packed, request) == text


@pytest.mark.parametrize(
    ("gpu_hours", "columns", "last"),
    [
        ((8.0, 2000.5), ["GPU-hours"], ["table", "3", "2", "2,008.5"]),
        ((0.0, 0.0), ["core-hours"], ["table", "3", "2", "1,027.0"]),
        ((8.0, 0.0), ["GPU-hours", "core-hours"], ["table", "3", "2", "8.0", "1,027.0"]),
    ],
)
def test_hours_by_stage_are_of_gpus_or_cores(gpu_hours, columns, last):
    stages = [
        Stage(name=name, runs=runs, jobs=1, gpu_hours=gpus, core_hours=cores)
        for name, runs, gpus, cores in zip(
            ("encode", "train"), (1, 2), gpu_hours, (16.0, 1011.0), strict=True
        )
    ]
    grid = _hours_by_stage(stages)
    assert [column.header for column in grid.columns] == ["stage", "runs", "jobs", *columns]
    assert [list(column.cells)[-1] for column in grid.columns] == last
    assert list(grid.columns[0].cells) == ["encode", "train", slurm_summary.total(stages).name]


def test_grid_has_a_rule_below_the_header_and_spaces_between_columns():
    stage = Stage(name="train", runs=2, jobs=1, gpu_hours=8.0, core_hours=0.0)
    console = Console(file=io.StringIO(), width=60)
    console.print(_hours_by_stage([stage]))
    assert console.file.getvalue().splitlines() == [
        "                                   ",
        "  stage   runs   jobs   GPU-hours  ",
        " ───────────────────────────────── ",
        "  train   2      1      8.0        ",
        "  table   2      1      8.0        ",
        "                                   ",
    ]


# --- progress of runs in the foreground


def test_log_line_has_no_traceback():
    record = logging.LogRecord("matched", logging.ERROR, "", 1, "run %s failed", ("abc",), None)
    record.exc_info, record.created, record.msecs = (ValueError, ValueError("why"), None), 0, 7
    formatter = cli_output._OneLine()
    formatter.converter = lambda seconds: (2025, 1, 2, 3, 4, 5, 0, 0, 0)
    assert formatter.format(record) == "2025-01-02 03:04:05,007 run abc failed"


class Bar:
    """Records what is shown as rich's Progress would show it."""

    def __init__(self):
        self.shown = []

    def add_task(self, title, total, shown):
        self.shown.append({"title": title, "total": total, "shown": shown})
        return len(self.shown) - 1

    def update(self, task, **changes):
        self.shown[task].update(changes)


def test_bars_follow_the_progress_of_each_run(one_row, monkeypatch):
    plan, bar, over, naps = one_row.plan(), Bar(), threading.Event(), []
    first, second = (planned.directory for planned in plan.runs)
    for directory in (first, second):
        directory.prepare()
    write_progress(first.path, 0, 0)

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 1:
            write_progress(first.path, 3, 10, shown={"loss": 0.25})
        else:
            assert bar.shown[0]["completed"] == 3 and "completed" not in bar.shown[1]
            write_progress(second.path, 10, 10)  # the last steps are shown too
            over.set()

    monkeypatch.setattr(cli_output.time, "sleep", sleep)
    cli_output._follow(plan.runs, bar, over)
    assert naps == [0.3, 0.3]
    assert bar.shown == [
        {"title": "small · LN · seed 0", "completed": 3, "total": 10, "shown": "loss 0.25"},
        {"title": "small · DyT · seed 0", "completed": 10, "total": 10, "shown": ""},
    ]


def test_run_shown_elsewhere_logs_lines(one_row, monkeypatch):
    plan, configured, ran = one_row.plan(), [], []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: configured.append(options))
    monkeypatch.setattr(
        submission, "run_in_process", lambda plan: ran.append(plan) or {"signature": "result"}
    )
    console = Console(file=io.StringIO())
    assert cli_output.run_shown(plan, console) == {"signature": "result"}
    ((handler,),) = (options.pop("handlers") for options in configured)
    assert configured == [{"level": logging.INFO}] and ran == [plan]
    assert isinstance(handler.formatter, cli_output._OneLine)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("fails", [False, True])
def test_run_shown_in_a_terminal_follows_the_missing_runs(one_row, monkeypatch, fails):
    one_row.finish("small.LN.0", top1=80.0)
    plan, followed = one_row.plan(), []

    def follow(planned_runs, bar, over):
        assert over.wait(20)
        followed.append(planned_runs)

    def run_in_process(plan):
        if fails:
            raise KeyError
        return {"signature": "result"}

    monkeypatch.setattr(cli_output, "_follow", follow)
    monkeypatch.setattr(submission, "run_in_process", run_in_process)
    console = Console(file=io.StringIO(), force_terminal=True)
    if fails:
        with pytest.raises(KeyError):
            cli_output.run_shown(plan, console)
    else:
        assert cli_output.run_shown(plan, console) == {"signature": "result"}
    assert followed == [plan.missing] and len(plan.missing) == 1


# --- submissions that wait


@pytest.fixture
def launched(one_row, monkeypatch):
    """Return a function that submits: its arguments, those of ``wait``, and its exit code."""
    job = SimpleNamespace(result=lambda: submitted.append("result"))
    submitted, waited = [], []

    def submit(plan, cluster, *, snapshot):
        submitted.append((cluster, snapshot))
        return plan, [job]

    def wait(plan, jobs, console):
        waited.append([each is job for each in jobs])
        return plan

    monkeypatch.setattr(cli.submission, "submit", submit)
    monkeypatch.setattr(cli, "wait", wait)

    def launch(*arguments, code=0):
        submitted.clear()
        waited.clear()
        told = one_row.cli(*arguments, code=code)
        return submitted, waited, "Small_1" in told

    return launch


@pytest.mark.parametrize("command", ["submit", "retry"])
@pytest.mark.parametrize(
    ("options", "submitted", "waited"),
    [
        ((), [("local", False)], []),
        (("--snapshot",), [("local", True)], []),
        (("--wait",), [("local", False)], [[True]]),
        (("--wait", "--cluster", "slurm"), [("slurm", False)], [[]]),  # Slurm's are no children
        (("--cluster", "debug"), [("debug", False), "result"], []),
        (("--wait", "--cluster", "debug"), [("debug", False), "result"], [[]]),
    ],
    ids=str,
)
def test_submission_waits_and_shows_the_table(launched, command, options, submitted, waited):
    assert launched(command, "table1", *options) == (submitted, waited, bool(waited))


def test_submission_that_waits_returns_1_for_a_failure(one_row, launched):
    directory = one_row.directory("small.LN.0")
    directory.prepare()
    directory.write_failure(Failure(reason="no memory"))
    launched("submit", "table1", code=0)
    launched("submit", "table1", "--wait", code=1)
    launched("submit", "table1", "--cluster", "debug", code=1)


def test_status_watch_shows_the_last_state(one_row, launched):
    assert launched("status", "table1") == ([], [], False)
    assert launched("status", "table1", "--watch") == ([], [[]], False)
