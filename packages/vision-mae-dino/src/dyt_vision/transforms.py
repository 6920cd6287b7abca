"""Image transforms of training and evaluation, from timm, and their inverse for pictures.

Mixup and CutMix, which act on batches, are in ``supervised``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform

from dyt_vision.config import Vision
from dyt_vision.image_data import Transform

DIGITS_MEAN, DIGITS_STD = (0.3054,) * 3, (0.3755,) * 3
"""Mean and standard deviation of the training digits' pixels, scaled to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Mean and standard deviation of a data set's channels, for pixels scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalization(config: Vision) -> Normalization:
    """Return the channel statistics of the data set that ``config`` names."""
    if config.data == "digits":
        return Normalization(mean=DIGITS_MEAN, std=DIGITS_STD)
    return Normalization(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)


def training_transform(
    config: Vision, *, rand_augment: str = "", erasing: float = 0.0
) -> Transform:
    """Return timm's training transform: random resized crop, flip, RandAugment, random erasing."""
    statistics = normalization(config)
    return create_transform(
        input_size=config.image_size,
        is_training=True,
        scale=config.crop_scale,
        ratio=config.crop_aspect,
        hflip=config.flip,
        color_jitter=None,  # type: ignore[arg-type]  # timm accepts None: no jitter
        auto_augment=rand_augment or None,
        interpolation=config.interpolation,
        re_prob=erasing,
        re_mode="pixel",
        re_count=1,
        mean=statistics.mean,
        std=statistics.std,
    )


def evaluation_transform(config: Vision) -> Transform:
    """Return timm's evaluation transform: resize, center crop, normalize."""
    statistics = normalization(config)
    return create_transform(
        input_size=config.image_size,
        is_training=False,
        interpolation=config.eval_interpolation,
        crop_pct=config.crop_ratio,
        mean=statistics.mean,
        std=statistics.std,
    )


class Denormalize:
    """Inverse of the normalization: images (..., 3, H, W) with values from 0 to 1, for pictures."""

    def __init__(self, config: Vision) -> None:
        statistics = normalization(config)
        self.mean, self.std = (_per_channel(v) for v in (statistics.mean, statistics.std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return (images.float() * std + mean).clamp(0, 1)


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    """Return the values as (3, 1, 1), which broadcasts over height and width."""
    return torch.tensor(values)[:, None, None]
