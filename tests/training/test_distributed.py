"""Runs of two processes: the same as one process's, and only rank 0 writes."""

import pytest
import torch

from .problem import TrainedRun, identical


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
