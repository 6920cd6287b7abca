"""The arm "DyT (calibrated)": α fitted to training images, in a table and in a run."""

import math
import os
from dataclasses import replace
from unittest import mock

import pytest
import torch

from dyt import Norm, alphas
from dyt_vision import models, supervised
from matched import recipes

from .tiny import DYT, ROOT, TINY_DINO, TINY_MAE, TINY_TUNING, TINY_VIT, loaded, train, weights

CALIBRATED = replace(TINY_VIT, norm=Norm.dyt("calibrated"))


@pytest.fixture(scope="module")
def data():
    return loaded(CALIBRATED)


def test_calibrated_arm_starts_from_the_same_weights_and_batches(tmp_path):
    few = replace(CALIBRATED, labels_per_class=26)  # four steps
    outcome, calibrated = train(tmp_path / "calibrated", few)
    other, dyt = train(tmp_path / "dyt", replace(few, norm=DYT))
    assert calibrated == dyt
    assert outcome.metrics != other.metrics
    assert math.isfinite(outcome.metrics["loss"])


def test_calibrated_alpha_fits_images_of_the_seed(data):
    first, again = (
        models.build(CALIBRATED, 10, lambda: supervised.calibration_images(CALIBRATED, data))[0]
        for _ in range(2)
    )
    assert alphas(first) == alphas(again)
    assert all(value != 0.5 for value in alphas(first).values())
    plain, _ = models.build(replace(CALIBRATED, norm=DYT), 10)
    for name, value in weights(plain).items():
        if "norm" not in name:
            assert torch.equal(value, weights(first)[name]), name


def test_calibration_images_depend_only_on_the_seed(data):
    images = supervised.calibration_images(CALIBRATED, data)
    assert images.shape == (64, 3, 16, 16)
    torch.rand(3)
    assert torch.equal(images, supervised.calibration_images(CALIBRATED, data))
    other = supervised.calibration_images(replace(CALIBRATED, seed=1), data)
    assert not torch.equal(images, other)


@pytest.mark.parametrize(
    "config", [TINY_MAE, TINY_DINO, TINY_TUNING], ids=lambda c: type(c).__name__
)
def test_runs_that_do_not_calibrate_refuse_calibrated_norms(config):
    with pytest.raises(ValueError, match=r"do not calibrate α; give alpha0 a number"):
        replace(config, norm=Norm.dyt("calibrated"))


def test_example_table_has_a_calibrated_arm_beside_table_1():
    with mock.patch.dict(os.environ, MATCHED_ROOT=str(ROOT)):
        for cached in (recipes.root, recipes.paper_numbers, recipes.available):
            cached.cache_clear()
        recipe = recipes.load(str(ROOT / "examples" / "calibrated_dyt.py"))
        paper = recipes.load("table1")
    table = recipe.table
    norms = {cell.arm: cell.run.config.norm for cell in table.cells(recipe.scale("smoke"))}
    assert list(norms) == ["LN", "DyT", "DyT (calibrated)"]
    assert norms["DyT (calibrated)"] == Norm.dyt("calibrated")
    assert [arm.name for arm in paper.table.arms] == ["LN", "DyT"]
