"""Tests of the launch of a script in several processes, on one and on several nodes."""

import json
import sys
from pathlib import Path

import pytest

from dyt_upstream.processes import runner_command, starts_processes
from matched.task import Context

from ..processes import run as run_in_processes

NODES = {"MASTER_ADDR": "node-a", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "4"}
SPECIFICATION = Path("script.json")


def launcher(processes, *, torchrun=False):
    command = runner_command(SPECIFICATION, processes, torchrun=torchrun)
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
