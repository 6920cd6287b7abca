"""Released weights of a classifier, and the analysis of their norm layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dyt_vision import models, norm_layers
from dyt_vision.config import ReleasedWeights
from dyt_vision.released_weights import import_weights
from dyt_vision.sources import weights_file

from ..messages import refused
from .tiny import OWN, TINY_VIT, context

CONFIG = ReleasedWeights(model=TINY_VIT.model, model_args=TINY_VIT.model_args, classes=10)


@pytest.fixture
def folder(tmp_path):
    """A folder like those of timm on Hugging Face."""
    state = models.create(replace(TINY_VIT, seed=7), 10).state_dict()
    (tmp_path / "vit").mkdir()
    save_file(state, tmp_path / "vit/model.safetensors")
    torch.save({"model": state}, tmp_path / "vit.pth")
    return tmp_path


def imported(folder, name="vit", config=CONFIG):
    place = context(folder / "imported", data={"vit-b-weights": folder / name})
    return import_weights(place, config)


def test_analyze_reads_released_weights(folder):
    outcome = imported(folder)
    assert imported(folder, "vit.pth").details == outcome.details  # the same weights
    needs = {"trained": folder / "imported"}
    config = replace(TINY_VIT, norm=OWN)
    outcome = norm_layers.analyze(context(folder / "analysis", needs=needs), config)
    assert outcome.details == {"picture": "norm_layers.png"}
    assert (folder / "analysis/norm_layers.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "analysis/norm_layers.svg").read_text(encoding="utf-8")
    assert len(np.load(folder / "analysis/norm_layers.npz")["path"]) == 5


def test_released_weights_of_another_model_are_refused(folder):
    wrong = replace(CONFIG, classes=1000)
    message = r"of another architecture than VisionTransformer: 2 keys differ, the first: head\.wei"
    with pytest.raises(ValueError, match=message):
        imported(folder, config=wrong)
    assert not (folder / "imported/weights.pth").exists()


def test_damaged_released_weights_are_refused(folder):
    (folder / "vit/model.safetensors").write_bytes(b"cut")
    message = refused(imported, folder)
    assert message.startswith(f"{folder / 'vit/model.safetensors'} cannot be read (")
    assert message.endswith("); copy it again")
    (folder / "imported/weights.pth").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read as a torch checkpoint"):
        norm_layers.analyze(
            context(folder / "analysis", needs={"trained": folder / "imported"}), TINY_VIT
        )


def test_weights_file_names_what_is_missing(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"has none of the files model\.safetensors, pytorch_model\.bin; expected the",
    ):
        weights_file(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file .*; expected the state dict of a timm"):
        weights_file(tmp_path / "none.pth")
