"""Data sets and transforms: ImageNet from a folder, or scikit-learn's digits, both through timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from dyt_vision.config import Supervised

DIGITS_HELD_OUT = 360
DIGITS_MEAN, DIGITS_STD = (0.3054,) * 3, (0.3755,) * 3
"""Of the training digits' pixels, scaled to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Training and held-out images, transformed: items are (image (3, H, W), label)."""

    train: Dataset
    held_out: Dataset
    classes: int


class Digits(Dataset):
    """scikit-learn's digits as RGB images; the last 360, in the order of the set, are held out."""

    def __init__(self, *, train: bool, size: int, transform: Callable[[Image.Image], Any]) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        part = slice(None, -DIGITS_HELD_OUT) if train else slice(-DIGITS_HELD_OUT, None)
        grey = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
        self.images = [
            Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            for image in grey
        ]
        self.labels = digits.target[part].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def load(config: Supervised, folder: Path | None) -> Images:
    """The images that a config names; ``folder`` is where site.toml says they lie.

    Raises:
        ValueError: for a data set that this task does not know.
    """
    if config.data == "digits":
        normal = {"mean": DIGITS_MEAN, "std": DIGITS_STD}
        return Images(
            train=Digits(train=True, size=config.image_size, transform=augment(config, **normal)),
            held_out=Digits(
                train=False, size=config.image_size, transform=centre(config, **normal)
            ),
            classes=10,
        )
    if config.data == "imagenet":
        assert folder is not None, "the harness resolves the path before the task starts"
        normal = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        return Images(
            train=ImageFolder(folder / "train", transform=augment(config, **normal)),
            held_out=ImageFolder(folder / "val", transform=centre(config, **normal)),
            classes=1000,
        )
    raise ValueError(f"data {config.data!r} is not known to this task; use digits or imagenet")


def augment(config: Supervised, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable:
    """timm's training transform: random resized crop, flip, RandAugment, random erasing."""
    return create_transform(
        input_size=config.image_size,
        is_training=True,
        scale=config.crop_scale,
        ratio=config.crop_aspect,
        hflip=config.flip,
        color_jitter=None,
        auto_augment=config.rand_augment or None,
        interpolation="bicubic",
        re_prob=config.erasing,
        re_mode="pixel",
        re_count=1,
        mean=mean,
        std=std,
    )


def centre(config: Supervised, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable:
    """timm's evaluation transform: resize, centre crop, normalise."""
    return create_transform(
        input_size=config.image_size,
        is_training=False,
        interpolation="bicubic",
        crop_pct=config.crop_ratio,
        mean=mean,
        std=std,
    )
