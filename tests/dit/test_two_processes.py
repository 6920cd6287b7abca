"""Training and sampling by two processes give what one process gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ..training.processes import run as together
from .tiny import (
    DYT,
    SAMPLING,
    TRAINING,
    fingerprint,
    lines,
    sampled,
    states,
    trained,
)

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def pair(digits, tmp_path_factory):
    """The folder of the runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    together(SCRIPT, digits, folder)
    return folder


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    """The directory of the same training by this process."""
    folder = tmp_path_factory.mktemp("one") / "trained"
    trained(folder, replace(TRAINING, norm=DYT, zero_init=False), digits)
    return folder


@pytest.mark.parametrize("name", ["trained", "sharded"])
def test_they_see_the_same_and_step_alike(pair, alone, name):
    assert fingerprint(pair / name) == fingerprint(alone)
    mine, theirs = lines(alone), lines(pair / name)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        key = "loss" if "loss" in one else "evaluation"
        assert one[key] == pytest.approx(other[key], rel=1e-3)


@pytest.mark.parametrize("name", ["trained", "sharded"])
def test_they_leave_whole_weights(pair, alone, name):
    mine, theirs = states(alone), states(pair / name)
    for part in ("ema", "model"):
        assert mine[part].keys() == theirs[part].keys()
        for key, tensor in mine[part].items():
            torch.testing.assert_close(theirs[part][key], tensor, rtol=1e-2, atol=2e-3)


def test_they_sample_the_same_bytes(pair, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, norm=DYT), pair / "trained")
    one, other = (d / "samples.npz" for d in (tmp_path / "x", pair / "samples"))
    assert one.read_bytes() == other.read_bytes()
    assert fingerprint(tmp_path / "x") == fingerprint(pair / "samples")
