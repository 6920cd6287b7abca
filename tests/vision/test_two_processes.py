"""Pretraining and probing by two processes give what one process gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyt_vision import dino, mae, probing
from matched.training import checkpoint

from .tiny import TINY_DINO, TINY_MAE, TINY_PROBING, fingerprint, lines, run

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def pair(small, tmp_path_factory):
    """The folder of the runs that two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, small, folder],
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
    return folder


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    """The folder of the same runs, trained by this process."""
    folder = tmp_path_factory.mktemp("one")
    run(mae.pretrain, folder / "mae", TINY_MAE, images=small)
    run(dino.pretrain, folder / "dino", TINY_DINO, images=small)
    return folder


@pytest.mark.parametrize("name", ["mae", "dino"])
def test_they_see_the_same_and_step_alike(pair, alone, name):
    assert fingerprint(pair / name) == fingerprint(alone / name)
    losses = [[x["loss"] for x in lines(f / name) if "loss" in x] for f in (pair, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_they_have_one_centre(pair, alone):
    last = Path("dino") / "checkpoints" / "step_00000004.pt"
    one, other = (
        checkpoint.read(folder / last).tensors["model.center"] for folder in (pair, alone)
    )
    assert one.any()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_probe_of_theirs_is_one_of_mine(pair, small, tmp_path):
    where = {"images": small, "needs": {"pretrained": pair / "dino"}}
    outcome, directory = run(probing.train, tmp_path, TINY_PROBING, **where)
    assert fingerprint(directory) == fingerprint(pair / "probing")
    evaluated = [line["evaluation"] for line in lines(pair / "probing") if "evaluation" in line]
    assert evaluated[-1] == pytest.approx(dict(outcome.metrics), rel=1e-3)
