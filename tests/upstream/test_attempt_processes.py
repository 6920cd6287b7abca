"""Processes of a script: which one starts it, how it is stopped, and what is read meanwhile."""

import json
import logging
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dyt_upstream import processes, script

from .test_attempt import RECORDS, log_lines, metrics_lines


@pytest.fixture
def of_two(monkeypatch, context, own, checkout):
    """Return a function that runs a script of two processes in this one, as a job's rank."""
    calls = []

    class Attempt:
        def __init__(self, context, config):
            calls.append("attempt")

        def compute(self):
            calls.append("compute")

        def outcome(self):
            return "outcome"

    def group(context):
        calls.append("group")
        return nullcontext()

    monkeypatch.setattr(script, "_Attempt", Attempt)
    monkeypatch.setattr(script, "process_group", group)
    monkeypatch.setattr(script, "raise_on_all_ranks", nullcontext)
    monkeypatch.setattr(script, "on_rank0", lambda function: f"{function()} of rank 0")

    def run(rank, local_rank, world_size):
        calls.clear()
        where = context(rank=rank, local_rank=local_rank, world_size=world_size)
        return script.run(where, own(processes=2)), calls

    checkout("")
    return run


@pytest.mark.parametrize(
    ("rank", "world_size", "expected"),
    [(0, 2, ["group", "attempt", "compute"]), (1, 2, ["group", "attempt"]), (2, 4, None)],
)
def test_one_process_of_a_node_runs_the_script(of_two, monkeypatch, rank, world_size, expected):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    outcome, calls = of_two(rank, rank, world_size)
    assert outcome == "outcome of rank 0"
    assert calls == (expected or ["group", "attempt"])


def test_script_for_more_processes_than_the_job_has_is_refused(of_two):
    with pytest.raises(ValueError) as refusal:
        of_two(0, 0, 1)
    assert str(refusal.value) == (
        "the recipe is for 2 processes, on which the script's batch size depends, but this job "
        "has 1; change resources or processes"
    )


def test_ended_script_has_its_fingerprint_and_metrics_written(attempt, started, monkeypatch):
    """Also if it was stopped: a resumed attempt continues these lines."""
    made = attempt()
    owned = []
    object.__setattr__(made.context, "check_ownership", lambda: owned.append(1))
    log_lines(made, *RECORDS[:1])
    (made.context.directory / "first-steps.json").write_text('{"weights": "w", "batches": ["b"]}')

    def interrupted(self, on_poll):
        raise KeyboardInterrupt

    monkeypatch.setattr(script.ScriptProcess, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.compute()
    assert [line.get("loss") for line in metrics_lines(made)] == [3.0, None]
    fingerprint = json.loads((made.context.directory / "fingerprint.json").read_text())
    assert fingerprint == {"weights": "w", "batches": ["b"]}
    assert owned


def test_first_start_has_the_whole_command_in_the_log(attempt, started, caplog):
    caplog.set_level(logging.INFO, "matched")
    made = attempt()
    made.compute()
    assert caplog.messages == [
        f"own at {made.checkout.commit}: {made.checkout.path}/train.py {made.output}",
        "train.py ended with status 3",
    ]
    command, folder = started[0]
    assert command[1:] == ["-m", "dyt_upstream.runner", str(made.context.directory / "script.json")]
    assert folder == made.checkout.path


def test_poll_waits_longer_for_a_log_that_takes_long_to_read(attempt, monkeypatch):
    clock, readings = [100.0], []
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    made = attempt(facts={"checkpoints": "*.pt"})
    made.process = SimpleNamespace(lines=list)

    def records():
        readings.append(clock[0])
        clock[0] += 2.0  # seconds
        return [{"step": 7.0, "epoch": 1, "loss": 2.5, "acc": math.nan}]

    monkeypatch.setattr(made, "_records", records)
    for clock[0] in (100.0, 130.0, 139.9, 140.0):
        made._poll()
    assert readings == [100.0, 140.0]
    progress = json.loads((made.context.directory / "progress.json").read_text())
    assert (progress["step"], progress["steps"], progress["shown"]) == (7, 7, {"loss": 2.5})
    made.context = replace(made.context, rank=1)
    clock[0] = 1000.0
    made._poll()
    assert readings == [100.0, 140.0], "only the first process reads"


def test_poll_writes_metrics_once_a_minute(attempt, monkeypatch):
    clock, written = [100.0], []
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    made = attempt()
    made.process = SimpleNamespace(lines=list)
    write = made._write_metrics

    def record(records):
        written.append(clock[0])
        write(records)

    monkeypatch.setattr(made, "_write_metrics", record)
    for clock[0] in (100.0, 110.0, 160.0, 161.0, 170.0, 225.9, 231.0):
        made._poll()
    assert written == [100.0, 170.0, 231.0]


@pytest.mark.parametrize(
    ("processes_", "torchrun", "local", "words"),
    [
        (1, False, None, []),
        (1, True, None, ["--nproc-per-node=1", "--standalone"]),
        (4, False, None, ["--nproc-per-node=4", "--standalone"]),
        (2, False, "4", ["--nproc-per-node=2", "--standalone"]),
        (
            8,
            False,
            "4",
            [
                "--nproc-per-node=4",
                "--nnodes=2",
                "--node-rank=1",
                "--master-addr=n0",
                "--master-port=29501",
            ],
        ),
    ],
)
def test_runner_command_starts_one_torchrun_per_node(
    tmp_path, monkeypatch, processes_, torchrun, local, words
):
    for name, value in (
        ("LOCAL_WORLD_SIZE", local),
        ("RANK", "5"),
        ("MASTER_ADDR", "n0"),
        ("MASTER_PORT", "29500"),
    ):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    command = processes.runner_command(tmp_path / "s.json", processes_, torchrun=torchrun)
    runner = ["-m", "dyt_upstream.runner", str(tmp_path / "s.json")]
    launcher = ["-m", "torch.distributed.run", *words] if words else []
    assert command == [sys.executable, *launcher, *runner]
