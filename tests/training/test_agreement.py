"""Agreement to stop or to save: decided one step later, by the requests of all processes."""

import sys

import pytest
import torch

from matched.training import agreement
from matched.training.agreement import Agreement, Decision


def test_single_process_decides_at_once():
    alone = Agreement()
    for stop in (False, True):
        for save in (False, True):
            assert alone.exchange(stop=stop, save=save) == Decision(stop=stop, save=save)
    alone.finish()


def test_single_process_of_a_process_group_exchanges_nothing(monkeypatch):
    monkeypatch.setattr(agreement.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(agreement.dist, "get_world_size", lambda: 1)
    assert Agreement().exchange(stop=True, save=False) == Decision(stop=True)


class Group:
    """A process group."""

    def __init__(self, backend):
        self.backend = backend


@pytest.fixture
def two(monkeypatch):
    """An agreement of this process with another; return it and the other's next requests."""
    others = []

    class Work:
        def wait(self):
            waited.append(True)

        def is_completed(self):
            return False

    def all_reduce(requests, operation, *, group, async_op):
        assert operation == agreement.dist.ReduceOp.MAX and group.backend == "gloo" and async_op
        sent.append(requests.tolist())
        other = torch.tensor(others.pop(0) if others else [0, 0], dtype=torch.int32)
        requests.copy_(torch.maximum(requests, other))
        return Work()

    waited, sent = [], []
    monkeypatch.setattr(agreement.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(agreement.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(agreement.dist, "new_group", Group)
    monkeypatch.setattr(agreement.dist, "all_reduce", all_reduce)
    return Agreement(), others, sent, waited


def test_requests_of_a_step_are_decided_after_the_next(two):
    made, _, sent, waited = two
    assert made.exchange(stop=False, save=True) == Decision()
    assert made.exchange(stop=False, save=False) == Decision(save=True)
    assert made.exchange(stop=False, save=False) == Decision()
    assert sent == [[0, 1], [0, 0], [0, 0]] and len(waited) == 2


def test_request_to_save_is_dropped_if_one_is_due(two):
    made, _, sent, _ = two
    decisions = [made.exchange(stop=False, save=True) for _ in range(4)]
    assert [decision.save for decision in decisions] == [False, True, False, True]
    assert sent == [[0, 1], [0, 0], [0, 1], [0, 0]]


def test_stop_of_another_process_ends_the_exchange(two):
    made, others, sent, waited = two
    others += [[0, 0], [1, 0]]
    assert made.exchange(stop=False, save=False) == Decision()
    assert made.exchange(stop=False, save=False) == Decision()
    assert made.exchange(stop=False, save=True) == Decision(stop=True)
    assert len(sent) == 2 and made.pending is None
    made.finish()
    assert len(waited) == 2


def test_finish_waits_for_the_pending_exchange(two):
    made, _, _, waited = two
    made.exchange(stop=False, save=False)
    made.finish()
    assert waited == [True] and made.pending is None


def test_abandon_keeps_the_group_of_a_pending_exchange_alive(two):
    """Its destruction would wait for an exchange that other processes may never join."""
    made, _, _, _ = two
    counts = [sys.getrefcount(made.group)]

    def abandon():
        made.abandon()
        counts.append(sys.getrefcount(made.group))

    abandon()
    made.exchange(stop=False, save=False)
    abandon()
    made.pending.is_completed = lambda: True
    abandon()
    assert [count - counts[0] for count in counts[1:]] == [0, 1, 1]
