"""Pictures of a run: enlarged by whole factors, framed in white, and not worth a failure."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from dyt_vision import pictures
from matched import Outcome

from .tiny import context


@pytest.mark.parametrize(("side", "factor"), [(4, 24), (50, 2), (95, 2), (96, 1), (224, 1)])
def test_picture_is_a_grid_of_enlarged_images(tmp_path, side, factor):
    rows = torch.linspace(-0.5, 1.5, 2 * 3 * 3 * side * side).reshape(2, 3, 3, side, side)
    pictures.save(context(tmp_path), "grid.png", rows)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture)
    large = side * factor
    assert pixels.shape == (2 * (large + 2) + 2, 3 * (large + 2) + 2, 3)
    for row in range(2):
        top = 2 + row * (large + 2)
        assert (pixels[top - 2 : top] == 255).all()
        for column in range(3):
            left = 2 + column * (large + 2)
            shown = pixels[top : top + large, left : left + large]
            exact = (rows[row, column].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
            assert (shown[::factor, ::factor] == exact).all()
            assert (shown[factor - 1 :: factor, factor - 1 :: factor] == exact).all()


def test_picture_that_cannot_be_written_is_logged(tmp_path, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with caplog.at_level(logging.WARNING, "matched"):
        pictures.save(context(tmp_path), "grid.png", torch.zeros(1, 1, 3, 4, 4))
    assert "grid.png could not be written: [Errno 28] No space left on device" in caplog.text
    assert not (tmp_path / "grid.png").exists()


def test_outcome_names_a_picture_that_was_written(tmp_path):
    outcome = Outcome(metrics={}, steps=1, details={"a": 1})
    assert pictures.with_picture(outcome, context(tmp_path), "grid.png") == outcome
    (tmp_path / "grid.png").touch()
    named = pictures.with_picture(outcome, context(tmp_path), "grid.png")
    assert named.details == {"a": 1, "picture": "grid.png"}
