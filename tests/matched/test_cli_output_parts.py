"""Parts of the output of commands: sizes, processes, requests, hours, and progress of runs."""

import logging
import threading
from types import SimpleNamespace

import pytest

from matched import Resources, cli_output, slurm_summary
from matched.cli_output import _hours_by_stage, _jobs, _processes, _size
from matched.job_packing import PackedJob
from matched.slurm_summary import Stage
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
