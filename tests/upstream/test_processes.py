"""Processes of a script: their launch on one and on several nodes, output, and end."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from dyt_upstream import processes
from dyt_upstream.processes import ScriptProcess, runner_command, starts_processes
from matched.task import Context

from ..processes import run as run_in_processes

NODES = {"MASTER_ADDR": "node-a", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "4"}
SPECIFICATION = Path("script.json")


def launcher(number, *, torchrun=False):
    command = runner_command(SPECIFICATION, number, torchrun=torchrun)
    assert command[0] == sys.executable
    assert command[-3:] == ["-m", "dyt_upstream.runner", "script.json"]
    return command[1:-3]


@pytest.fixture
def node(monkeypatch):
    """Return a function that sets the variables of a process of a job on nodes of four."""

    def set_variables(rank):
        for name, value in {**NODES, "RANK": str(rank)}.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_runner_command_on_one_node(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    torchrun = ["-m", "torch.distributed.run"]
    assert launcher(1) == []
    assert launcher(1, torchrun=True) == [*torchrun, "--nproc-per-node=1", "--standalone"]
    assert launcher(3) == [*torchrun, "--nproc-per-node=3", "--standalone"]


@pytest.mark.parametrize(("rank", "number"), [(0, 0), (4, 1), (8, 2)])
def test_runner_command_on_several_nodes(node, rank, number):
    node(rank)
    assert launcher(12) == [
        *("-m", "torch.distributed.run", "--nproc-per-node=4", "--nnodes=3"),
        *(f"--node-rank={number}", "--master-addr=node-a", "--master-port=29501"),
    ]


def test_runner_command_refuses_partly_filled_nodes(node):
    node(0)
    with pytest.raises(ValueError, match="6 processes of the script do not fill nodes of 4"):
        runner_command(SPECIFICATION, 6, torchrun=False)


def test_one_process_of_each_node_starts_the_script(node):
    node(0)
    started = [
        rank
        for rank in range(12)
        if starts_processes(
            Context(directory=Path(), signature="x", rank=rank, local_rank=rank % 4, world_size=12),
            8,
        )
    ]
    assert started == [0, 4], "the job's third node has nothing to do"


@pytest.mark.slow
def test_script_runs_on_two_nodes(tmp_path):
    """Two launchers, each of a node with one process, meet as on two machines."""
    run_in_processes(Path(__file__).with_name("two_nodes.py"), str(tmp_path))
    metrics, norms = json.loads((tmp_path / "outcome.json").read_text())
    log = json.loads((tmp_path / "output" / "log.txt").read_text().splitlines()[-1])
    assert metrics["accuracy"] == log["test_acc"]
    assert norms == {"Adder": 3}
    one, other = (json.loads(p.read_text()) for p in sorted(tmp_path.glob("script.json*")))
    assert one["command"] == other["command"]


CHILD = """
import ctypes, os, sys
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
print("parent's end: signal", number.value)
print("own group:", os.getpgid(0) == os.getpid(), "input:", repr(sys.stdin.read()))
print("variables:", sorted({"A", "PATH"} & os.environ.keys()))
print(" ", os.getcwd() + "  ", end="\\n\\n", flush=True)
sys.stderr.buffer.write(b"\\xff error\\n")
sys.exit(3)
"""


def script_process(folder, code, on_line=lambda line: None):
    return ScriptProcess([sys.executable, "-IS", "-c", code], folder, {"A": "b"}, on_line)


@pytest.fixture
def typed():
    """Put text into the standard input of this process, which its children inherit."""
    read, write = os.pipe()
    os.write(write, b"typed text")
    os.close(write)
    before = os.dup(0)
    os.dup2(read, 0)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(read)


@pytest.mark.usefixtures("typed")
def test_script_process_has_its_own_group_folder_and_environment(tmp_path):
    lines, polls = [], []
    process = script_process(tmp_path, CHILD, lines.append)
    assert process.wait(lambda: polls.append(1)) == 3
    assert lines == process.lines()
    assert lines == [
        "parent's end: signal 9",
        "own group: True input: ''",
        "variables: ['A']",
        f"  {tmp_path}",
        "\ufffd error",
    ]
    assert polls


def test_script_process_keeps_the_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MAX_LINES", 2)
    process = script_process(tmp_path, "print(1, 2, 3, sep='\\n')")
    process.wait(lambda: None)
    assert process.lines() == ["2", "3"]


def test_script_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    ready = threading.Event()
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    process = script_process(tmp_path, f"{code}; time.sleep(60)", lambda line: ready.set())
    assert ready.wait(10)

    def fail():
        raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="the lease is lost"):
        process.wait(fail)
    assert process._process.returncode == -signal.SIGKILL


def test_script_that_ends_by_itself_after_sigterm_is_not_killed(tmp_path):
    ready = threading.Event()
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(1, flush=1)"
    process = script_process(tmp_path, f"{code}; time.sleep(60)", lambda line: ready.set())
    assert ready.wait(10)
    process.stop()
    assert process._process.returncode == 7


@pytest.mark.parametrize(
    ("world", "local", "processes_", "expected"),
    [
        (4, None, 2, [0]),  # on this machine without a launcher's variable
        (4, "2", 4, [0, 2]),
        (4, "2", 2, [0]),
        (4, "2", 3, [0, 2]),
    ],
)
def test_starts_processes_on_the_nodes_that_the_script_needs(
    monkeypatch, world, local, processes_, expected
):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    of_node = int(local or world)
    contexts = [
        Context(
            directory=Path(), signature="x", rank=rank, local_rank=rank % of_node, world_size=world
        )
        for rank in range(world)
    ]
    assert [c.rank for c in contexts if starts_processes(c, processes_)] == expected
