"""Peers and is_connection_error, in real processes of which one disappears."""

from pathlib import Path

import pytest
import torch.distributed as dist

from matched import peers
from matched.peers import Peers, is_connection_error

from ..processes import run as run_two_processes

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


@pytest.mark.parametrize(("rank", "polls"), [("0", [1, 2]), ("1", [])])
def test_rank_0_closes_the_store_after_all_others(monkeypatch, rank, polls):
    """The others, of three processes in all, leave one after the other."""
    closed, polled = [], []

    class Store:
        def add(self, key, count):
            closed.extend([key] * count)
            return len(closed)

    def sleep(seconds):
        polled.append(len(closed))
        closed.append("closed")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(peers.time, "sleep", sleep)
    process = Peers()
    vars(process)["_store"] = Store()
    process.close()
    assert polled == polls
