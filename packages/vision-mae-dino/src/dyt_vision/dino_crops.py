"""DINO's multi-crop augmentation (Caron et al. 2021, Section 3.1 and Appendix C)."""

from __future__ import annotations

import random

from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dyt_vision.config import DINO
from dyt_vision.transforms import normalization

COLOR_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
BLUR_RADII = (0.1, 2.0)
"""Range of the Gaussian blur's radius in pixels, as in BYOL (Grill et al. 2020)."""
SOLARIZE_THRESHOLD = 128
"""Solarization inverts values from this one on."""


class RandomGaussianBlur:
    """Gaussian blur of a random radius, applied with a given probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*BLUR_RADII)))


class MultiCropTransform:
    """Transform of an image to two global crops followed by the local ones, normalized."""

    def __init__(self, config: DINO) -> None:
        first, second, local = config.blur
        self.views = [
            _crop_transform(config, config.image_size, config.crop_scale, first, solarize=0.0),
            _crop_transform(
                config, config.image_size, config.crop_scale, second, solarize=config.solarize
            ),
        ]
        if config.local_crops:
            view = _crop_transform(
                config, config.local_size, config.local_scale, local, solarize=0.0
            )
            self.views += [view] * config.local_crops

    def __call__(self, image: Image.Image) -> list[Tensor]:
        return [view(image) for view in self.views]


def _crop_transform(
    config: DINO, size: int, scale: tuple[float, float], blur: float, *, solarize: float
) -> transforms.Compose:
    statistics = normalization(config)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, scale, config.crop_aspect, interpolation=InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(config.flip),
            transforms.RandomApply([transforms.ColorJitter(**COLOR_JITTER)], p=config.jitter),
            transforms.RandomGrayscale(config.greyscale),
            RandomGaussianBlur(blur),
            transforms.RandomSolarize(SOLARIZE_THRESHOLD, p=solarize),
            transforms.ToTensor(),
            transforms.Normalize(statistics.mean, statistics.std),
        ]
    )
