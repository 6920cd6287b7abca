"""Peers and is_connection_error, in real processes of which one disappears."""

from pathlib import Path

import pytest
import torch.distributed as dist

from matched.peers import Peers, is_connection_error

from ..training.processes import run as run_two_processes

SCRIPT = str(Path(__file__).parent / "two_processes_peers.py")


def test_is_connection_error_for_a_real_gloo_error():
    """Gloo raises plain RuntimeErrors, so their messages have to be recognized."""
    run_two_processes(SCRIPT, "1", "collective")


def test_broadcast_raises_when_rank_0_is_lost():
    run_two_processes(SCRIPT, "0", "broadcast")


@pytest.mark.parametrize("lost_rank", ["0", "1"])
def test_barrier_is_false_when_a_process_is_lost(lost_rank):
    run_two_processes(SCRIPT, lost_rank, "barrier")


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
