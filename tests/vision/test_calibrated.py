"""The arm "DyT (calibrated)" of the vision runs: α fitted to training images."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from dyt import DyT, Norm, alphas
from dyt_vision import dino, finetuning, image_data, mae, models, probing, supervised
from dyt_vision.dino_crops import MultiCropTransform
from dyt_vision.transforms import training_transform
from matched.training import reseed
from matched.training.batches import seeded_batch

from .tiny import (
    DYT,
    TINY_DINO,
    TINY_MAE,
    TINY_PROBING,
    TINY_TUNING,
    TINY_VIT,
    learner,
    loaded,
    run,
    train,
    weights,
)

NORM = Norm.dyt("calibrated")
CALIBRATED = replace(TINY_VIT, norm=NORM)


def images(config, folder, transform):
    data = image_data.load(config, folder, train=transform(config), held_out=transform(config))
    return data.train


def build_vit(config, folder):
    data = loaded(config)
    return models.build(config, 10, partial(supervised.run_on_images, config, data))[0]


def build_mae(config, folder):
    dataset = images(config, folder, training_transform)
    return mae.build(config, partial(mae.run_on_images, dataset, config))[0]


def build_dino(config, folder):
    dataset = images(config, folder, MultiCropTransform)
    return dino.build(config, partial(dino.run_on_crops, dataset, config))[0]


BUILDS = {
    "ViT": (build_vit, TINY_VIT),
    "MAE": (build_mae, TINY_MAE),
    "DINO": (build_dino, TINY_DINO),
}


@pytest.mark.filterwarnings("ignore:calibrate")  # random numbers fit badly
@pytest.mark.parametrize("norm", [NORM, Norm.dyt(0.5)], ids=str)
def test_batch_norm_is_replaced_in_calibrated_runs(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    config = replace(TINY_VIT, norm=norm, convert_batch_norm=True)
    paths = models.replace_norms(model, config, lambda model: model(torch.randn(8, 3, 4, 4)))
    assert paths == ("1",) and isinstance(model[1], DyT)


def test_classifier_is_calibrated_with_the_images_that_it_trains_on(monkeypatch):
    config, found = replace(CALIBRATED, labels_per_class=2), []

    def seeded_batch(dataset, *arguments):
        found.append(len(dataset))
        return torch.zeros(1), None

    monkeypatch.setattr(supervised, "seeded_batch", seeded_batch)
    supervised.run_on_images(config, loaded(config), nn.Identity())
    assert found == [2 * 10]


@pytest.mark.parametrize("name", BUILDS)
def test_calibration_batch_has_64_images_of_the_seed(name, small):
    module, task, config, transform = {
        "ViT": (supervised, "run_on_images", TINY_VIT, None),
        "MAE": (mae, "run_on_images", TINY_MAE, training_transform),
        "DINO": (dino, "run_on_crops", TINY_DINO, MultiCropTransform),
    }[name]
    config, given = replace(config, seed=5), []
    dataset = loaded(config).train if transform is None else images(config, small, transform)
    first = (config, loaded(config)) if transform is None else (dataset, config)

    def model(*batch):
        given.append(batch)
        return torch.zeros(1)

    getattr(module, task)(*first, model)
    expected, _ = seeded_batch(dataset, 64, 5, "calibration")
    ((found, *noise),) = given
    pairs = zip(found, expected, strict=True)  # crops, or images
    assert all(torch.equal(a, b) for a, b in pairs)
    if name == "MAE":
        reseed(5, "calibration", "masks")
        assert torch.equal(noise[0], torch.rand(16, 16))  # 16 images with 16 patches each


def test_norm_after_pooling_is_calibrated_with_the_common_epsilon(monkeypatch):
    model, found = finetuning.build(replace(TINY_TUNING, norm=DYT), 10)[0], []
    monkeypatch.setattr(models, "replace_norms", lambda model, *_: found.append(model.fc_norm))
    finetuning.calibrate_pooled_norm(model, replace(TINY_TUNING, norm=DYT), print)
    finetuning.calibrate_pooled_norm(model, replace(TINY_TUNING, norm=NORM), print)
    (norm,) = found
    assert (type(norm), norm.normalized_shape, norm.eps) == (nn.LayerNorm, (32,), 1e-6)


def test_calibrated_arm_starts_from_the_same_weights_and_batches(tmp_path):
    few = replace(CALIBRATED, labels_per_class=26)  # four steps
    outcome, calibrated = train(tmp_path / "calibrated", few)
    other, dyt = train(tmp_path / "dyt", replace(few, norm=DYT))
    assert calibrated == dyt
    assert outcome.metrics != other.metrics
    assert math.isfinite(outcome.metrics["loss"])


@pytest.mark.parametrize("name", BUILDS)
def test_calibrated_alpha_fits_images_of_the_seed(name, small):
    build, config = BUILDS[name]
    first, again = (build(replace(config, norm=NORM), small) for _ in range(2))
    assert alphas(first) == alphas(again)
    assert all(value != 0.5 for value in alphas(first).values())
    other = replace(config, norm=NORM, seed=1)
    assert alphas(build(other, small)) != alphas(first)
    plain = weights(build(replace(config, norm=DYT), small))
    for path, value in weights(first).items():
        if "norm" not in path:
            assert torch.equal(plain[path], value), path


def test_calibrated_student_and_teacher_start_with_equal_alpha(small):
    values = alphas(build_dino(replace(TINY_DINO, norm=NORM), small))
    student = {path: value for path, value in values.items() if path.startswith("student.")}
    assert student
    assert {path.replace("student.", "teacher."): v for path, v in student.items()} == {
        path: value for path, value in values.items() if path.startswith("teacher.")
    }


def test_fine_tuning_inherits_alpha_and_fits_that_after_pooling(monkeypatch, small, tmp_path):
    _, start = run(mae.pretrain, tmp_path / "mae", replace(TINY_MAE, norm=NORM), images=small)
    caught = learner(
        monkeypatch,
        tmp_path / "tuning",
        replace(TINY_TUNING, norm=NORM),
        finetuning,
        needs={"pretrained": start},
        data={"imagenet": small},
    )
    state = torch.load(start / "pretrained.pth", weights_only=True)["model"]
    values = alphas(caught.model)
    assert values.pop("fc_norm") != 0.5
    assert "fc_norm" in caught.norms
    assert values
    for path, value in values.items():
        assert value == state[f"{path}.alpha"].item()


def test_fine_tuning_from_scratch_is_calibrated(monkeypatch, small, tmp_path):
    config = replace(TINY_TUNING, norm=NORM)
    where = {"data": {"imagenet": small}}
    caught = learner(monkeypatch, tmp_path, config, finetuning, **where)
    values = alphas(caught.model)
    assert values
    assert all(value != 0.5 for value in values.values())


def test_probing_takes_alpha_of_the_teacher(small, tmp_path):
    _, start = run(dino.pretrain, tmp_path / "dino", replace(TINY_DINO, norm=NORM), images=small)
    model, norms, inherited = probing.build(replace(TINY_PROBING, norm=NORM), start, 2)
    state = torch.load(start / "pretrained.pth", weights_only=True)["teacher"]
    assert len(alphas(model)) == len(norms) > 0
    for path, value in alphas(model).items():
        assert f"{path}.alpha" in inherited
        assert value == state[f"{path}.alpha"].item()
