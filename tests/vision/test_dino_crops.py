"""The views that DINO compares: how many, how large, and what is done to each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFilter import GaussianBlur
from torchvision.transforms import InterpolationMode

from dyt_vision.config import DINO
from dyt_vision.dino_crops import Blur, Crops
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
def test_two_global_crops_come_first_and_then_the_local_ones(picture, local):
    found = Crops(replace(TINY_DINO, local_crops=local))(picture)
    assert [tuple(crop.shape) for crop in found] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * local


class TestPaper:
    def test_the_steps_of_every_view(self):
        views = Crops(PAPER).views
        assert len(views) == 12
        for view in views:
            found = steps(view)
            assert list(found) == [
                "RandomResizedCrop",
                "RandomHorizontalFlip",
                "RandomApply",
                "RandomGrayscale",
                "Blur",
                "RandomSolarize",
                "ToTensor",
                "Normalize",
            ]
            assert found["RandomHorizontalFlip"].p == 0.5
            (jitter,) = found["RandomApply"].transforms
            assert found["RandomApply"].p == 0.8
            assert (jitter.brightness, jitter.contrast) == ((0.6, 1.4), (0.6, 1.4))
            assert (jitter.saturation, jitter.hue) == ((0.8, 1.2), (-0.1, 0.1))
            assert found["RandomGrayscale"].p == 0.2
            assert found["RandomResizedCrop"].interpolation == InterpolationMode.BICUBIC
            assert found["RandomResizedCrop"].ratio == pytest.approx((3 / 4, 4 / 3))
            assert list(found["Normalize"].mean) == pytest.approx([0.485, 0.456, 0.406])

    def test_sizes_and_shares_of_the_image(self):
        crops = [steps(view)["RandomResizedCrop"] for view in Crops(PAPER).views]
        assert [(c.size, c.scale) for c in crops[:2]] == [((224, 224), (0.25, 1.0))] * 2
        assert [(c.size, c.scale) for c in crops[2:]] == [((96, 96), (0.05, 0.25))] * 10

    def test_the_first_is_blurred_the_second_solarized_the_local_ones_half_blurred(self):
        found = [steps(view) for view in Crops(PAPER).views]
        assert [view["Blur"].probability for view in found] == [1.0, 0.1] + [0.5] * 10
        assert [view["RandomSolarize"].p for view in found] == [0.0, 0.2] + [0.0] * 10
        assert {view["RandomSolarize"].threshold for view in found} == {128}


class TestBlur:
    def test_it_is_done_as_often_as_its_probability_says(self, picture):
        reseed(0)
        for probability, least, most in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
            blur = Blur(probability)
            changed = sum(blur(picture) is not picture for _ in range(200))
            assert least <= changed <= most

    def test_its_radius_is_between_a_tenth_and_two_pixels(self, picture, monkeypatch):
        radii = []
        monkeypatch.setattr(
            "dyt_vision.dino_crops.ImageFilter.GaussianBlur",
            lambda radius: radii.append(radius) or GaussianBlur(radius),
        )
        reseed(0)
        for _ in range(200):
            Blur(1.0)(picture.crop((0, 0, 4, 4)))
        assert 0.1 <= min(radii) < 0.2 and 1.9 < max(radii) <= 2.0

    def test_it_smooths(self, picture):
        reseed(0)
        assert np.asarray(Blur(1.0)(picture)).std() < 0.9 * np.asarray(picture).std()


def test_the_views_follow_from_the_place_of_the_sample(picture):
    crops = Crops(TINY_DINO)
    drawn = []
    for place in ((0, "sample", 1, 2), (0, "sample", 1, 2), (0, "sample", 1, 3)):
        reseed(*place)
        drawn.append(crops(picture))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][1])
