"""DINO's multi-crop augmentation: number, size and transforms of the views."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFilter import GaussianBlur
from torchvision.transforms import InterpolationMode

from dyt_vision.config import DINO
from dyt_vision.dino_crops import MultiCropTransform, RandomGaussianBlur
from matched.training import reseed

from .tiny import TINY_DINO

PAPER = DINO(data="imagenet", epochs=1, batch=8, micro_batch=8, lr=1e-3)


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def steps(view):
    return {type(step).__name__: step for step in view.transforms}


@pytest.mark.parametrize("local", [0, 2, 10])
def test_multi_crop_returns_global_crops_before_local_ones(picture, local):
    crops = MultiCropTransform(replace(TINY_DINO, local_crops=local))(picture)
    assert [tuple(crop.shape) for crop in crops] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * local


class TestPaper:
    def test_every_view_has_the_papers_transforms(self):
        views = MultiCropTransform(PAPER).views
        assert len(views) == 12
        for view in views:
            by_name = steps(view)
            assert list(by_name) == [
                "RandomResizedCrop",
                "RandomHorizontalFlip",
                "RandomApply",
                "RandomGrayscale",
                "RandomGaussianBlur",
                "RandomSolarize",
                "ToTensor",
                "Normalize",
            ]
            assert by_name["RandomHorizontalFlip"].p == 0.5
            (jitter,) = by_name["RandomApply"].transforms
            assert by_name["RandomApply"].p == 0.8
            assert (jitter.brightness, jitter.contrast) == ((0.6, 1.4), (0.6, 1.4))
            assert (jitter.saturation, jitter.hue) == ((0.8, 1.2), (-0.1, 0.1))
            assert by_name["RandomGrayscale"].p == 0.2
            assert by_name["RandomResizedCrop"].interpolation == InterpolationMode.BICUBIC
            assert by_name["RandomResizedCrop"].ratio == pytest.approx((3 / 4, 4 / 3))
            assert list(by_name["Normalize"].mean) == pytest.approx([0.485, 0.456, 0.406])

    def test_crop_sizes_and_scales(self):
        crops = [steps(view)["RandomResizedCrop"] for view in MultiCropTransform(PAPER).views]
        assert [(c.size, c.scale) for c in crops[:2]] == [((224, 224), (0.25, 1.0))] * 2
        assert [(c.size, c.scale) for c in crops[2:]] == [((96, 96), (0.05, 0.25))] * 10

    def test_blur_and_solarization_probabilities_of_each_view(self):
        views = [steps(view) for view in MultiCropTransform(PAPER).views]
        assert [view["RandomGaussianBlur"].probability for view in views] == [1.0, 0.1] + [0.5] * 10
        assert [view["RandomSolarize"].p for view in views] == [0.0, 0.2] + [0.0] * 10
        assert {view["RandomSolarize"].threshold for view in views} == {128}


class TestBlur:
    def test_blur_is_applied_with_its_probability(self, picture):
        reseed(0)
        for probability, least, most in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
            blur = RandomGaussianBlur(probability)
            changed = sum(blur(picture) is not picture for _ in range(200))
            assert least <= changed <= most

    def test_blur_radius_is_between_0_1_and_2_pixels(self, picture, monkeypatch):
        radii = []
        monkeypatch.setattr(
            "dyt_vision.dino_crops.ImageFilter.GaussianBlur",
            lambda radius: radii.append(radius) or GaussianBlur(radius),
        )
        reseed(0)
        for _ in range(200):
            RandomGaussianBlur(1.0)(picture.crop((0, 0, 4, 4)))
        assert 0.1 <= min(radii) < 0.2 and 1.9 < max(radii) <= 2.0

    def test_blur_smooths_the_image(self, picture):
        reseed(0)
        assert np.asarray(RandomGaussianBlur(1.0)(picture)).std() < 0.9 * np.asarray(picture).std()


def test_views_depend_only_on_the_samples_seed(picture):
    crops = MultiCropTransform(TINY_DINO)
    drawn = []
    for place in ((0, "sample", 1, 2), (0, "sample", 1, 2), (0, "sample", 1, 3)):
        reseed(*place)
        drawn.append(crops(picture))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][1])
