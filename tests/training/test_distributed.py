"""Runs of two processes: the same as one process's, and only rank 0 writes."""

from datetime import timedelta

import pytest
import torch

from matched.signals import Interrupted
from matched.training import distributed
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks

from .problem import TrainedRun, context, identical


class TestProcessGroup:
    def test_one_process_gets_its_threads_and_no_group(self, tmp_path, monkeypatch):
        threads = []
        monkeypatch.setattr(torch, "set_num_threads", threads.append)
        with process_group(context(tmp_path, threads=3)) as device:
            assert not torch.distributed.is_initialized()
        assert (device, threads) == (torch.device("cpu"), [3])

    def test_process_of_a_node_gets_its_gpu_and_two_groups(self, tmp_path, monkeypatch):
        """The second group is on the CPU, and waits a day for work of one process."""
        calls, devices = [], []

        def init_process_group(backend, *, store, rank, world_size):
            calls.append(("init", backend, store, rank, world_size))

        def new_group(*, backend, timeout):
            calls.append(("new", backend, timeout))
            return "objects"

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", devices.append)
        monkeypatch.setattr(distributed, "rendezvous_store", lambda: "store")
        monkeypatch.setattr(distributed.dist, "PrefixStore", lambda *names: names)
        monkeypatch.setattr(distributed.dist, "init_process_group", init_process_group)
        monkeypatch.setattr(distributed.dist, "new_group", new_group)
        monkeypatch.setattr(
            distributed.dist, "destroy_process_group", lambda: calls.append(("destroy",))
        )
        place = context(tmp_path, signature="run", rank=5, local_rank=2, world_size=8)
        with process_group(place) as device:
            assert distributed._object_group == "objects"
        assert distributed._object_group is None
        assert device == devices[0] == torch.device("cuda", 2)
        assert calls == [
            ("init", "nccl", ("run", "store"), 5, 8),
            ("new", "gloo", timedelta(days=1)),
            ("destroy",),
        ]


class Unpicklable(Exception):
    """An error of two arguments that pickle cannot create again."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


class TestErrorsOfOtherProcesses:
    """on_rank0 and raise_on_all_ranks, with what is sent to and received from other processes."""

    @pytest.fixture
    def exchange(self, monkeypatch):
        """Return ``exchange(rank, received)``: set this process, return the messages it sends."""

        def exchange(rank, received=None):
            sent = []

            def broadcast(message, src, group):
                assert src == 0 and group == "objects"
                sent.append(list(message))
                if received is not None:
                    message[:] = received

            def gather(values, value, group):
                assert group == "objects"
                sent.append(value)
                values[:] = received or [value, None]

            monkeypatch.setattr(distributed, "_object_group", "objects")
            monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
            monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)
            monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
            monkeypatch.setattr(distributed.dist, "broadcast_object_list", broadcast)
            monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
            return sent

        return exchange

    def test_on_rank0_sends_the_result_or_the_error(self, exchange):
        sent = exchange(0)
        assert on_rank0(lambda: 5) == 5

        def interrupted():
            raise Interrupted

        with pytest.raises(Interrupted):
            on_rank0(interrupted)

        def fail():
            raise Unpicklable("a.txt", "cut")

        with pytest.raises(Unpicklable, match="cut"):
            on_rank0(fail)
        assert sent[0] == [5, None]
        assert sent[1][0] is None and isinstance(sent[1][1], Interrupted)
        assert sent[2][0] is None and type(sent[2][1]) is RuntimeError
        assert str(sent[2][1]) == "another process failed: Unpicklable: a.txt: cut"

    def test_on_rank0_does_no_work_on_other_ranks(self, exchange):
        calls = []
        exchange(1, [7, None])
        assert on_rank0(lambda: calls.append(1)) == 7
        exchange(1, [None, KeyError("x")])
        with pytest.raises(KeyError, match="x"):
            on_rank0(lambda: calls.append(1))
        assert calls == []

    def test_raise_on_all_ranks_prefers_the_own_error(self, exchange):
        sent = exchange(1, [OSError("of rank 0"), RuntimeError("of rank 1")])
        with pytest.raises(Unpicklable, match="own: one"), raise_on_all_ranks():
            raise Unpicklable("own", "one")
        assert str(sent[0]) == "another process failed: Unpicklable: own: one"
        with pytest.raises(OSError, match="of rank 0"), raise_on_all_ranks():
            pass
        exchange(1, [None, None])
        with raise_on_all_ranks():
            pass


def test_two_processes_train_like_one_that_accumulates(two_processes, uninterrupted):
    """With dropout, mixup and augmentation: all draw the same random numbers."""
    two = TrainedRun(directory=two_processes / "own-0")
    assert two.losses == pytest.approx(uninterrupted.losses, rel=1e-4)
    assert two.lrs == uninterrupted.lrs
    assert two.gradient_norms == pytest.approx(uninterrupted.gradient_norms, rel=1e-4)
    for name, tensor in two.state["model"].items():
        torch.testing.assert_close(tensor, uninterrupted.state["model"][name], rtol=1e-3, atol=1e-4)


def test_only_rank0_writes(two_processes):
    assert {path.name for path in (two_processes / "own-0").iterdir()} == {
        "checkpoints", "metrics.jsonl", "performance.jsonl", "progress.json", "fingerprint.json",
    }  # fmt: skip
    assert list((two_processes / "own-1").iterdir()) == []


def test_fingerprint_is_equal_on_any_number_of_processes(two_processes, uninterrupted):
    """It is also equal for both arms of a pair."""
    own, dyt = (TrainedRun(directory=two_processes / name) for name in ("own-0", "dyt-0"))
    assert own.json("fingerprint.json") == dyt.json("fingerprint.json")
    assert own.json("fingerprint.json") == uninterrupted.json("fingerprint.json")
    assert own.losses[:4] != dyt.losses[:4]


def test_process_that_reaches_the_next_run_early_waits(two_processes):
    early, late, own = (
        TrainedRun(directory=two_processes / f"{run}-0") for run in ("early", "late", "own")
    )
    assert early.losses == pytest.approx(own.losses, rel=1e-6)
    assert late.losses != early.losses
    assert late.checkpoints == early.checkpoints


def test_two_processes_resume_bit_identical(two_processes, resumed):
    assert TrainedRun(directory=two_processes / "crashed").checkpoints == ["step_00000005.pt"]
    run = TrainedRun(directory=resumed / "crashed")
    uninterrupted = TrainedRun(directory=two_processes / "own-0")
    assert run.lines == uninterrupted.lines
    assert run.json("fingerprint.json") == uninterrupted.json("fingerprint.json")
    assert identical(run.state, uninterrupted.state)


def test_broadcast_buffers_gives_all_processes_equal_running_statistics(two_processes):
    logs = [(two_processes / "logs" / f"batchnorm-{rank}.txt").read_text() for rank in range(2)]
    buffers = [[x for x in text.splitlines() if x.startswith("buffers")] for text in logs]
    assert buffers[0] == buffers[1] and len(set(buffers[0])) == len(buffers[0]) >= 4


def test_error_on_rank0_is_raised_on_all_ranks(two_processes):
    for rank in range(2):
        log = (two_processes / "logs" / f"lost-{rank}.txt").read_text()
        assert "ended by LeaseLostError: another process is at work" in log


def test_failed_process_exits_before_pending_collective_ends(two_processes):
    """The other process may never reach the collective, and is only killed after this one exits."""
    assert (two_processes / "logs" / "left-alone").read_text() == "rank 0 exited first: True"
