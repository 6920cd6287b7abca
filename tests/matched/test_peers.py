"""Peers and is_connection_error, in real processes of which one disappears."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from matched import peers
from matched.peers import Peers, is_connection_error
from matched.rendezvous import rendezvous_store
from matched.signals import Interrupted

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


def test_rendezvous_store_is_made_once_from_the_environment(monkeypatch):
    asked = []

    def meet(url):
        asked.append(url)
        yield "store", 0, 2

    monkeypatch.setattr(dist, "rendezvous", meet)
    rendezvous_store.cache_clear()
    assert [rendezvous_store(), rendezvous_store()] == ["store", "store"]
    rendezvous_store.cache_clear()
    assert asked == ["env://"]


class Recorded:
    """A store that records calls; ``wait`` first fails as often as it is told."""

    def __init__(self, failures=0, error=dist.DistStoreError):
        self.calls, self.failures, self.error = [], failures, error

    def set(self, key, value):
        self.calls.append(("set", key, value))

    def get(self, key):
        return b"from rank 0 \xc2\xb1"

    def wait(self, keys, timeout):
        self.calls.append(("wait", keys, timeout.total_seconds()))
        if self.failures:
            self.failures -= 1
            raise self.error("too early")


@pytest.fixture
def one_of_two(monkeypatch):
    """Return a function that makes this process a rank of two, with a store."""

    def make(rank, store):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        process = Peers()
        vars(process)["_store"] = store
        return process

    return make


def test_broadcast_waits_for_rank_0_until_a_stop_signal(one_of_two, monkeypatch):
    store = Recorded()
    assert one_of_two(0, store).broadcast("key", "value") == "value"
    assert store.calls == [("set", "key", "value")]
    store = Recorded(failures=2)
    assert one_of_two(1, store).broadcast("key", None) == "from rank 0 ±"
    assert store.calls == [("wait", ["key"], 5.0)] * 3
    monkeypatch.setattr(peers.signals, "stop_signal", lambda: 15)
    with pytest.raises(Interrupted):
        one_of_two(1, Recorded(failures=1)).broadcast("key", None)


def test_barrier_waits_for_the_keys_of_all_ranks(one_of_two):
    store = Recorded()
    assert one_of_two(1, store).barrier("end", 7.0) is True
    assert store.calls == [
        ("set", "barrier/end/1", ""),
        ("wait", ["barrier/end/0", "barrier/end/1"], 7.0),
    ]
    assert one_of_two(0, Recorded(failures=1)).barrier("end", 7.0) is False
    assert one_of_two(0, Recorded(failures=1, error=RuntimeError)).barrier("end", 7.0) is False


def test_close_waits_no_longer_than_its_limit(one_of_two, monkeypatch):
    """Rank 1 hangs; rank 0 looks again every 0.05 s, for 30 s."""
    clock = [0.0]
    monkeypatch.setattr(peers.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(peers.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    added = []
    store = SimpleNamespace(add=lambda key, count: added.append((key, count)) or 1)
    one_of_two(0, store).close()
    assert clock[0] == pytest.approx(30, abs=0.1)
    assert added[0] == ("closed", 1) and set(added[1:]) == {("closed", 0)}


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
