"""Peers and is_connection_error, between real processes of which one is killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from matched.peers import Peers, is_connection_error

SCRIPT = Path(__file__).parent / "two_processes_peers.py"


def survivor_output(rank_to_kill, scenario):
    """Kill one of two processes; return what the other prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank_to_kill), scenario],
            env={**os.environ, **address, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[rank_to_kill].returncode == -signal.SIGKILL
    return outputs[1 - rank_to_kill]


def test_is_connection_error_for_real_gloo_error():
    """Gloo raises plain RuntimeErrors, so its messages have to be recognized."""
    output = survivor_output(1, "collective")
    assert "connection error: True" in output, (
        f"torch {torch.__version__} reports a lost gloo process in other words; "
        f"adapt GLOO_ERROR in matched/peers.py: {output}"
    )


def test_broadcast_raises_when_rank_0_is_killed():
    assert "connection error: True" in survivor_output(0, "broadcast")


@pytest.mark.parametrize("rank_to_kill", [0, 1])
def test_barrier_is_false_when_a_process_is_killed(rank_to_kill):
    assert "barrier reached: False" in survivor_output(rank_to_kill, "barrier")


@pytest.mark.parametrize(
    "error", [dist.DistBackendError("NCCL"), dist.DistNetworkError(""), dist.DistStoreError("")]
)
def test_is_connection_error_for_typed_errors(error):
    assert is_connection_error(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("[gloo/pair.cc:1] Connection closed by peer"),
        ConnectionResetError("Connection reset by peer"),
    ],
    ids=["computation", "wrong type", "another connection"],
)
def test_is_connection_error_is_false_for_errors_of_the_computation(error):
    assert not is_connection_error(error)


def test_peers_of_one_process_need_no_store(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    peers = Peers()
    assert peers.broadcast("key", "value") == "value"
    assert peers.barrier("name", 0.0)
    peers.close()
