"""Pretraining and probing on two processes, compared with one process."""

from pathlib import Path

import pytest
import torch

from dyt_vision import dino, mae, probing
from matched.training import checkpoint

from ..processes import run as together
from .tiny import TINY_DINO, TINY_MAE, TINY_PROBING, fingerprint, lines, run

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def pair(small, tmp_path_factory):
    """Return the folder of the runs that two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    together(SCRIPT, small, folder)
    return folder


@pytest.fixture(scope="module")
def single(small, tmp_path_factory):
    """Return the folder of the same runs, trained by this process."""
    folder = tmp_path_factory.mktemp("one")
    run(mae.pretrain, folder / "mae", TINY_MAE, images=small)
    run(dino.pretrain, folder / "dino", TINY_DINO, images=small)
    return folder


@pytest.mark.parametrize("name", ["mae", "dino"])
def test_two_processes_match_fingerprint_and_losses_of_one(pair, single, name):
    assert fingerprint(pair / name) == fingerprint(single / name)
    losses = [[x["loss"] for x in lines(f / name) if "loss" in x] for f in (pair, single)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_two_processes_compute_the_same_center(pair, single):
    last = Path("dino") / "checkpoints" / "step_00000004.pt"
    one, other = (
        checkpoint.read(folder / last).tensors["model.center"] for folder in (pair, single)
    )
    assert one.any()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_two_processes_match_the_probe_of_one(pair, small, tmp_path):
    where = {"images": small, "needs": {"pretrained": pair / "dino"}}
    outcome, directory = run(probing.train, tmp_path, TINY_PROBING, **where)
    assert fingerprint(directory) == fingerprint(pair / "probing")
    evaluated = [line["evaluation"] for line in lines(pair / "probing") if "evaluation" in line]
    assert evaluated[-1] == pytest.approx(dict(outcome.metrics), rel=1e-3)
