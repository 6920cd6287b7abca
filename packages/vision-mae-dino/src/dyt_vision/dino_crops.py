"""The views of an image that DINO compares (Caron et al. 2021, Section 3.1 and Appendix C)."""

from __future__ import annotations

import random

from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dyt_vision.config import DINO
from dyt_vision.images import colours

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
RADII = (0.1, 2.0)
"""Of the Gaussian blur, in pixels: BYOL's augmentations (Grill et al. 2020)."""
THRESHOLD = 128
"""Values from here on are inverted by solarization."""


class Blur:
    """Gaussian blur of a random radius, with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*RADII)))


class Crops:
    """An image → two global crops and then the local ones, normalised."""

    def __init__(self, config: DINO) -> None:
        first, second, local = config.blur
        self.views = [
            _view(config, config.image_size, config.crop_scale, first, solarize=0.0),
            _view(config, config.image_size, config.crop_scale, second, config.solarize),
        ]
        if config.local_crops:
            view = _view(config, config.local_size, config.local_scale, local, solarize=0.0)
            self.views += [view] * config.local_crops

    def __call__(self, image: Image.Image) -> list[Tensor]:
        return [view(image) for view in self.views]


def _view(
    config: DINO, size: int, scale: tuple[float, float], blur: float, solarize: float
) -> transforms.Compose:
    normal = colours(config)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, scale, config.crop_aspect, interpolation=InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(config.flip),
            transforms.RandomApply([transforms.ColorJitter(**JITTER)], p=config.jitter),
            transforms.RandomGrayscale(config.greyscale),
            Blur(blur),
            transforms.RandomSolarize(THRESHOLD, p=solarize),
            transforms.ToTensor(),
            transforms.Normalize(normal.mean, normal.std),
        ]
    )
