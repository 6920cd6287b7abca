"""Data sets and transforms: ImageNet from a folder, or scikit-learn's digits, both through timm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder

from dyt_vision.config import Vision

log = logging.getLogger("matched")

DIGITS_HELD_OUT = 360
DIGITS_MEAN, DIGITS_STD = (0.3054,) * 3, (0.3755,) * 3
"""Of the training digits' pixels, scaled to [0, 1]."""

UNREADABLE = 0.001
"""Share of a training set's files that may be unreadable; a run stops above it, at two or more."""

Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Training and held-out images, transformed: items are (what the transform gives, label)."""

    train: Dataset
    held_out: Dataset
    classes: int


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Mean and standard deviation of a data set's channels, of pixels scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Digits(Dataset):
    """scikit-learn's digits as RGB images; the last 360, in the order of the set, are held out."""

    def __init__(self, *, train: bool, size: int, transform: Transform) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        part = slice(None, -DIGITS_HELD_OUT) if train else slice(-DIGITS_HELD_OUT, None)
        grey = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
        self.images = [
            Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            for image in grey
        ]
        self.targets = digits.target[part].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.targets[index]


class Folder(ImageFolder):
    """An ImageFolder that says which file it cannot read.

    A training image that cannot be decoded is left out: the next one of the folder that can be
    takes its place, in both arms of a pair alike. Each is named once by every process that meets
    it. The run stops at the first held-out image, and when a process has met clearly more than the
    share ``UNREADABLE`` of what it has read.
    A file that the system cannot give (a lost mount, no permission) is an error of its own.
    """

    def __init__(self, folder: Path, transform: Transform, *, tolerant: bool) -> None:
        super().__init__(str(folder), transform=transform)
        self.unreadable: set[str] = set()
        self.tolerant = tolerant
        self.read = 0

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= len(self.samples):
            raise IndexError(index)  # which ends a loop over the set
        for i in range(index, index + len(self.samples)):
            path, label = self.samples[i % len(self.samples)]
            self.read += 1
            try:
                image = self.loader(path)
            except OSError as error:
                if error.errno is not None:
                    raise
                self._note(path, error)
                continue
            # What PIL raises on some broken headers, such as one that promises gigapixels.
            except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
                self._note(path, error)
                continue
            return self.transform(image), label
        raise AssertionError("so many files cannot be left out")

    def _may_be_left_out(self) -> int:
        """How many files, by what this process has read; one in any case."""
        if not self.tolerant:
            return 0
        seen = min(len(self.samples), 2 * self.read + 3 / UNREADABLE)
        return max(1, int(UNREADABLE * seen))

    def _note(self, path: str, error: Exception) -> None:
        if path not in self.unreadable:
            self.unreadable.add(path)
            log.warning("%s cannot be read as an image and is left out: %s", path, error)
        most = self._may_be_left_out()
        if len(self.unreadable) > most:
            named = ", ".join(sorted(self.unreadable)[:3])
            raise ValueError(
                f"{len(self.unreadable)} files under {self.root} cannot be read as images, of "
                f"{self.read} that this process has read; {most} may be: {named}. Replace them, "
                "or delete them"
            )


def colours(config: Vision) -> Colours:
    """Those of the data set that a config names."""
    if config.data == "digits":
        return Colours(mean=DIGITS_MEAN, std=DIGITS_STD)
    return Colours(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)


def load(
    config: Vision, folder: Path | None, *, train: Transform, held_out: Transform | None = None
) -> Images:
    """The images that a config names; ``folder`` is where site.toml says they lie.

    Args:
        train: transform of the training images.
        held_out: of the held-out ones; the centre crop if None.

    Raises:
        ValueError: for a data set that this package does not know.
    """
    held_out = centre(config) if held_out is None else held_out
    if config.data == "digits":
        size = config.image_size
        return Images(
            train=Digits(train=True, size=size, transform=train),
            held_out=Digits(train=False, size=size, transform=held_out),
            classes=10,
        )
    if config.data == "imagenet":
        assert folder is not None, "the harness resolves the path before the task starts"
        return Images(
            train=Folder(folder / "train", train, tolerant=True),
            held_out=Folder(folder / "val", held_out, tolerant=False),
            classes=1000,
        )
    raise ValueError(f"data {config.data!r} is not known to this task; use digits or imagenet")


def augment(config: Vision, *, rand_augment: str = "", erasing: float = 0.0) -> Transform:
    """timm's training transform: random resized crop, flip, RandAugment, random erasing."""
    normal = colours(config)
    return create_transform(
        input_size=config.image_size,
        is_training=True,
        scale=config.crop_scale,
        ratio=config.crop_aspect,
        hflip=config.flip,
        color_jitter=None,
        auto_augment=rand_augment or None,
        interpolation=config.interpolation,
        re_prob=erasing,
        re_mode="pixel",
        re_count=1,
        mean=normal.mean,
        std=normal.std,
    )


def centre(config: Vision) -> Transform:
    """timm's evaluation transform: resize, centre crop, normalise."""
    normal = colours(config)
    return create_transform(
        input_size=config.image_size,
        is_training=False,
        interpolation=config.eval_interpolation,
        crop_pct=config.crop_ratio,
        mean=normal.mean,
        std=normal.std,
    )


def first_of_each_class(dataset: Any, count: int) -> Subset:
    """The first ``count`` images of each class: a set with few labels.

    Raises:
        ValueError: if a class has fewer.
    """
    chosen: dict[int, list[int]] = {}
    for index, label in enumerate(dataset.targets):
        chosen.setdefault(label, []).append(index)
    if short := [label for label, found in sorted(chosen.items()) if len(found) < count]:
        raise ValueError(
            f"labels_per_class is {count}, but class {short[0]} has {len(chosen[short[0]])} images"
        )
    return Subset(dataset, sorted(i for found in chosen.values() for i in found[:count]))


class Pixels:
    """Turns normalised images (..., 3, H, W) back into values from 0 to 1, for pictures."""

    def __init__(self, config: Vision) -> None:
        normal = colours(config)
        self.mean, self.std = (self._column(v) for v in (normal.mean, normal.std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return (images.float() * std + mean).clamp(0, 1)

    @staticmethod
    def _column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values)[:, None, None]
