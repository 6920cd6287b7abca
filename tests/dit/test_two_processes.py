"""Training and sampling in two processes: same results as in one process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ..processes import run as run_in_two_processes
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
    """Folder of the runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    run_in_two_processes(SCRIPT, digits, folder)
    return folder


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    """Directory of the same training in this process."""
    folder = tmp_path_factory.mktemp("one") / "trained"
    trained(folder, replace(TRAINING, norm=DYT, zero_init=False), digits)
    return folder


@pytest.mark.parametrize("name", ["trained", "sharded"])
def test_two_processes_train_like_one(pair, alone, name):
    assert fingerprint(pair / name) == fingerprint(alone)
    expected, found = lines(alone), lines(pair / name)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        key = "loss" if "loss" in one else "evaluation"
        assert one[key] == pytest.approx(other[key], rel=1e-3)


@pytest.mark.parametrize("name", ["trained", "sharded"])
def test_two_processes_save_unsharded_weights(pair, alone, name):
    expected, found = states(alone), states(pair / name)
    for part in ("ema", "model"):
        assert expected[part].keys() == found[part].keys()
        for key, tensor in expected[part].items():
            torch.testing.assert_close(found[part][key], tensor, rtol=1e-2, atol=2e-3)


def test_two_processes_sample_identical_images(pair, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, norm=DYT), pair / "trained")
    one, other = (d / "samples.npz" for d in (tmp_path / "x", pair / "samples"))
    assert one.read_bytes() == other.read_bytes()
    assert fingerprint(tmp_path / "x") == fingerprint(pair / "samples")
