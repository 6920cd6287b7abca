"""A run on two processes is the run on one, and only the first process writes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .problem import Trained

SCRIPT = Path(__file__).with_name("two_processes.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train(folder, *runs):
    """Have two processes train these runs of two_processes.py, one after the other."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, *runs],
            env=os.environ | address | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Filled by two processes that train several runs, as those of a packed job do."""
    folder = tmp_path_factory.mktemp("two")
    train(folder, "own", "dyt", "early", "late", "cut")
    return folder


def test_two_processes_train_as_one_that_accumulates(folder, undisturbed):
    """With dropout, mixup and augmentation: all of it is drawn alike."""
    two = Trained(directory=folder / "own-0")
    assert two.losses == pytest.approx(undisturbed.losses, rel=1e-4)
    assert two.rates == undisturbed.rates
    for name, tensor in two.state["model"].items():
        torch.testing.assert_close(tensor, undisturbed.state["model"][name], rtol=1e-3, atol=1e-4)


def test_only_the_first_process_writes(folder):
    assert {path.name for path in (folder / "own-0").iterdir()} == {
        "checkpoints", "metrics.jsonl", "progress.json", "fingerprint.json",
    }  # fmt: skip
    assert list((folder / "own-1").iterdir()) == []


def test_the_arms_of_a_pair_have_the_same_fingerprint_on_any_number_of_processes(
    folder, undisturbed
):
    own, dyt = (Trained(directory=folder / name) for name in ("own-0", "dyt-0"))
    assert own.json("fingerprint.json") == dyt.json("fingerprint.json")
    assert own.json("fingerprint.json") == undisturbed.json("fingerprint.json")
    assert own.losses[:4] != dyt.losses[:4]


def test_a_process_that_is_early_for_the_next_run_of_a_job_waits_for_the_others(folder):
    early, late, own = (Trained(directory=folder / f"{run}-0") for run in ("early", "late", "own"))
    assert early.losses == pytest.approx(own.losses, rel=1e-6)
    assert late.losses != early.losses
    assert late.checkpoints == early.checkpoints


def test_a_run_on_two_processes_that_was_cut_ends_the_same(folder):
    assert Trained(directory=folder / "cut").checkpoints == ["step_00000005.pt"]
    train(folder, "resumed")
    cut, own = (Trained(directory=folder / name) for name in ("cut", "own-0"))
    assert cut.losses == pytest.approx(own.losses, rel=1e-6)
    assert cut.json("fingerprint.json") == own.json("fingerprint.json")
    for name, tensor in cut.state["model"].items():
        assert torch.equal(tensor, own.state["model"][name])
