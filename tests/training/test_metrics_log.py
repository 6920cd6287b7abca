"""Metrics log: lines, ownership of metrics.jsonl, write errors, damaged lines."""

import json
import math
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from matched.training import metrics_log
from matched.training.metrics_log import MetricsLog

from .problem import CONFIG, Crash, CrashAt, context, mse, train

VALUES = {"loss": 1.0, "lr": 0.1, "gradient_norm": 2.0}


def written(lines):
    """Return the content of a StepLines."""
    return [json.loads(line) for line in lines.path.read_text().splitlines()]


def test_replaced_process_does_not_write_to_the_new_metrics_file(tmp_path):
    metrics, calls = tmp_path / "metrics.jsonl", iter(range(100))

    def loss(model, batch):
        if next(calls) == 10:  # another process starts, as ``MetricsLog.start`` does
            (tmp_path / "other").write_text("line of the other process\n")
            (tmp_path / "other").replace(metrics)
        return mse(model, batch)

    train(tmp_path, loss=loss)
    assert metrics.read_text() == "line of the other process\n"


def test_steps_per_second_are_those_since_the_resumption(tmp_path, monkeypatch):
    seconds = [50.0]
    monkeypatch.setattr(metrics_log.time, "perf_counter", lambda: seconds[0])
    log = MetricsLog(context(tmp_path), steps=1000)
    log.start(100)
    seconds[0] += 10
    log.step(120, 1.0, **VALUES)
    log.close()
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["step"], progress["steps_per_second"]) == (120, 2.0)


def test_progress_is_written_twice_a_second_and_at_evaluations(tmp_path, monkeypatch, caplog):
    seconds, written = [50.0], []
    monkeypatch.setattr(metrics_log.time, "perf_counter", lambda: seconds[0])

    def write_progress(directory, step, steps, *, steps_per_second, shown):
        written.append((step, steps, steps_per_second, dict(shown)))

    monkeypatch.setattr(metrics_log, "write_progress", write_progress)
    log = MetricsLog(context(tmp_path), steps=10)
    log.start(0)
    for step, at, loss in ((1, 50.25, 1.0), (2, 50.5, 2.0), (3, 50.75, math.nan), (4, 51.0, 4.0)):
        seconds[0] = at
        log.step(step, 0.1, **(VALUES | {"loss": loss}))
    with caplog.at_level("INFO", logger="matched"):
        log.evaluation(4, 0.25, {"error": 1.23456, "top1": float("nan")})
    log.close()
    assert written == [
        (0, 10, None, {}),
        (3, 10, 4.0, {"loss": None}),
        (4, 10, 4.0, {"loss": 4.0, "error": 1.23456, "top1": None}),
    ]
    assert caplog.messages == ["epoch 0.25: {'error': 1.2346, 'top1': nan}"]


def test_performance_lines_have_the_time_of_day(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_log.time, "time", lambda: 1_700_000_000.12345)
    log = MetricsLog(context(tmp_path), steps=10)
    log.start(0)
    log.step(1, 0.1, **VALUES, performance={"samples_per_second": 5.0})
    log.close()
    (line,) = written(log.performance)
    assert line == {"step": 1, "time": 1_700_000_000.123, "samples_per_second": 5.0}


def test_metrics_lines_are_flushed_immediately(tmp_path):
    counts = []

    def loss(model, batch):
        counts.append(len((tmp_path / "metrics.jsonl").read_text().splitlines()))
        return mse(model, batch)

    train(tmp_path, replace(CONFIG, log_steps=1, eval_epochs=4), loss=loss)
    assert counts == [step for step in range(12) for _ in range(2)]


@pytest.mark.parametrize("loss", [mse, CrashAt(4)], ids=["finished", "crashed"])
def test_log_files_are_closed_at_the_end(tmp_path, monkeypatch, loss):
    start, files = MetricsLog.start, []

    def recorded(self, step):
        start(self, step)
        files.extend([self.metrics.file, self.performance.file])

    monkeypatch.setattr(MetricsLog, "start", recorded)
    with suppress(Crash):
        train(tmp_path, loss=loss)
    assert [file.closed for file in files] == [True, True]


def test_metrics_log_step_writes_further_values(tmp_path):
    metrics_log = MetricsLog(context(tmp_path), 12)
    metrics_log.start(0)
    nan = float("nan")
    metrics_log.step(1, 0.1, **VALUES, scale=128, alpha={"norm": 0.5, "out": nan})
    metrics_log.step(2, 0.2, loss=nan, lr=0.1, gradient_norm=float("inf"))
    metrics_log.close()
    assert written(metrics_log.metrics) == [
        {"step": 1, "epoch": 0.1, **VALUES, "scale": 128, "alpha": {"norm": 0.5, "out": None}},
        {"step": 2, "epoch": 0.2, "loss": None, "lr": 0.1, "gradient_norm": None},
    ]
    other = MetricsLog(context(tmp_path / "other", rank=1, world_size=2), 12)
    other.start(0)
    other.step(1, 0.1, **VALUES, scale=128, performance={"samples_per_second": 3.5})
    assert not list((tmp_path / "other").iterdir())


def test_metrics_log_writes_performance_to_its_own_file(tmp_path):
    metrics_log, now = MetricsLog(context(tmp_path), 12), time.time()
    metrics_log.start(0)
    metrics_log.step(1, 0.1, **VALUES, performance={"samples_per_second": 3.5})
    metrics_log.step(2, 0.2, **VALUES, performance={})  # nothing measured since a resumption
    metrics_log.evaluation(2, 0.2, {"top1": 1.0}, {})
    metrics_log.close()
    (line,) = written(metrics_log.performance)
    assert line.pop("time") == pytest.approx(now, abs=60)
    assert line == {"step": 1, "samples_per_second": 3.5}
    assert written(metrics_log.metrics) == [
        {"step": 1, "epoch": 0.1, **VALUES},
        {"step": 2, "epoch": 0.2, **VALUES},
        {"step": 2, "epoch": 0.2, "evaluation": {"top1": 1.0}},
    ]


def test_full_disk_error_names_the_metrics_file(tmp_path):
    metrics_log = MetricsLog(context(tmp_path), 12)
    metrics_log.start(0)
    metrics_log.metrics.file.close()
    metrics_log.metrics.file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'"):
        metrics_log.step(1, 0.1, **VALUES)
    performance = metrics_log.performance.file
    with pytest.raises(OSError):  # what was not written is still in its buffer
        metrics_log.close()
    assert performance.closed


@pytest.mark.parametrize("damage", ["\0" * 40, "{}", '{"step": "4"', "[1]", "\xff\xfe"])
def test_damaged_metrics_line_is_reported_with_its_number(tmp_path, damage):
    train(tmp_path, replace(CONFIG, log_steps=1))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    text = "\n".join([*lines[:2], damage, *lines[3:]]) + "\n"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="damaged") as error:
        train(tmp_path, replace(CONFIG, log_steps=1))
    assert str(error.value) == (
        f"{path}, line 3, is damaged; delete the line to continue without it, or the run "
        "directory to start from the beginning"
    )
