"""Checkpoints of Lightning: tensors and plain values alone, without running what is in them."""

import collections
import sys
from types import ModuleType

import pytest
import torch

from dyt_hyenadna.lightning_checkpoint import load_lightning


class Runs:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint with tensors, a config of a library that is not installed, and a trap."""
    module = ModuleType("some_config_library")
    config = type("DictConfig", (dict,), {"__module__": module.__name__})
    module.DictConfig = config
    state = collections.OrderedDict(
        weight=torch.arange(6.0).reshape(2, 3), half=torch.ones(2, dtype=torch.float16)
    )
    content = {
        "state_dict": state,
        "epoch": 3,
        "hyper_parameters": config(lr=1.0),
        "callbacks": [Runs(tmp_path / "written")],
    }
    with monkeypatch.context() as installed:
        installed.setitem(sys.modules, module.__name__, module)
        torch.save(content, tmp_path / "weights.ckpt")
    return tmp_path / "weights.ckpt"


def test_tensors_and_plain_values_are_loaded(checkpoint):
    content = load_lightning(checkpoint)
    assert content["epoch"] == 3
    state = content["state_dict"]
    assert list(state) == ["weight", "half"] and state["half"].dtype == torch.float16
    assert torch.equal(state["weight"], torch.arange(6.0).reshape(2, 3))


def test_other_objects_are_placeholders_and_run_nothing(checkpoint):
    content = load_lightning(checkpoint)
    assert not (checkpoint.parent / "written").exists()
    assert type(content["hyper_parameters"]).__name__ == "_Placeholder"


def test_damaged_or_missing_checkpoint_is_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*none\.ckpt$"):
        load_lightning(tmp_path / "none.ckpt")
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "damaged.ckpt").write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ValueError, match=r"damaged\.ckpt cannot be read as a torch checkpoint"):
        load_lightning(tmp_path / "damaged.ckpt")
