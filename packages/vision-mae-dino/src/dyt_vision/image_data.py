"""Image data sets shared by the image domains: digits, ImageNet folders, unreadable files.

``dyt_dit`` reads its images through this module as well, which keeps the held-out split and the
limit of unreadable files equal in both domains.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision import datasets

from dyt_vision.config import Vision
from dyt_vision.sources import FOLDER_SETS, IMAGE_SUFFIXES
from matched.data_files import list_files, list_folders, pointer_fault

log = logging.getLogger("matched")

DIGITS_HELD_OUT = 360

MAX_UNREADABLE_SHARE = 0.001
"""Share of a training set's files that may be unreadable; see ``max_unreadable``."""

Transform = Callable[[Image.Image], Any]


class UnreadableImageError(ValueError):
    """A file that exists but cannot be decoded as an image; the message names it."""


def max_unreadable(count: float) -> int:
    """Return how many of ``count`` training files may be unreadable: at least one."""
    return max(1, int(MAX_UNREADABLE_SHARE * count))


class Digits(Dataset[Any]):
    """scikit-learn's digits as RGB images; the last 360, in the order of the set, are held out.

    Items are (transformed image, label).

    Attributes:
        pixels: the original gray images, uint8 (N, 8, 8).
        targets: the label of every image.
        first: index of the first image within the full set of 1,797.
    """

    def __init__(self, *, train: bool, size: int, transform: Transform) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        part = slice(None, -DIGITS_HELD_OUT) if train else slice(-DIGITS_HELD_OUT, None)
        self.first = range(len(digits.images))[part].start
        self.pixels = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
        self.images = [
            Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            for image in self.pixels
        ]
        self.targets = digits.target[part].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.targets[index]


class ImageFolder(datasets.ImageFolder):
    """torchvision's ImageFolder, which tells undecodable images apart from file system errors.

    Classes and images are listed by ``matched.data_files``: in torchvision's order, without hidden
    and system files and folders, each image once.
    """

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = list_folders(directory)
        if not classes:
            raise ValueError(f"{directory} has no class folders; expected <class>/<image>")
        return classes, {name: index for index, name in enumerate(classes)}

    @staticmethod
    def make_dataset(
        directory: str | Path, class_to_idx: dict[str, int], *args: Any, **kwargs: Any
    ) -> list[tuple[str, int]]:
        samples = []
        for name, label in class_to_idx.items():
            folder = os.path.join(directory, name)
            paths = list_files(folder, IMAGE_SUFFIXES)
            if not paths:
                raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
            samples += [(path, label) for path in paths]
        return samples

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, decoded to RGB but not transformed, and its label.

        Raises:
            UnreadableImageError: if the file exists but cannot be decoded, or is a link that leads
                to itself.
            OSError: if the system cannot read it (a lost mount, no permission), which says
                nothing about the image.
        """
        path, label = self.samples[index]
        try:
            return self.loader(path), label
        except OSError as error:
            if error.errno not in (None, errno.ELOOP):
                raise
            raise UnreadableImageError(_unreadable_message(path, error)) from error
        # PIL raises these on some broken headers, such as one that announces gigapixels.
        except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(_unreadable_message(path, error)) from error


def _unreadable_message(path: str, error: Exception) -> str:
    if fault := pointer_fault(path):
        return f"{path} cannot be read as an image: it {fault}"
    return f"{path} cannot be read as an image: {error}"


class SubstitutingImageFolder(ImageFolder):
    """An ImageFolder that replaces an unreadable image by the next readable one of the folder.

    The replacement is the same in both arms of a pair. Every process logs each unreadable file
    once. The run stops when a process has met clearly more than ``MAX_UNREADABLE_SHARE`` of what
    it has read, and at the first unreadable file of a held-out set (``tolerant=False``).

    Attributes:
        unreadable: paths of the unreadable files that this process has met.
        read_count: files that this process has tried to read.
    """

    def __init__(self, folder: Path, transform: Transform, *, tolerant: bool) -> None:
        super().__init__(str(folder), transform=transform)
        self.unreadable: set[str] = set()
        self.tolerant = tolerant
        self.read_count = 0

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the transformed image and its label, both of the replacement if there is one.

        Raises:
            ValueError: if more files are unreadable than may be.
        """
        if index >= len(self.samples):
            raise IndexError(index)  # ends a loop over the set
        for i in range(index, index + len(self.samples)):
            i %= len(self.samples)
            self.read_count += 1
            try:
                image, label = self.read(i)
            except UnreadableImageError as error:
                self._record_unreadable(self.samples[i][0], error)
                continue
            # Outside of the try block: an error of the transform is not an unreadable file.
            return self.transform(image), label
        raise AssertionError("_record_unreadable raises before every file is left out")

    def _max_unreadable(self) -> int:
        """Return how many files may be unreadable, given how many this process has read."""
        if not self.tolerant:
            return 0
        # More than what has been read: a few broken files may come early by chance.
        return max_unreadable(
            min(len(self.samples), 2 * self.read_count + 3 / MAX_UNREADABLE_SHARE)
        )

    def _record_unreadable(self, path: str, error: UnreadableImageError) -> None:
        if path not in self.unreadable:
            self.unreadable.add(path)
            log.warning("%s; the next readable image of the folder is used instead", error)
        allowed = self._max_unreadable()
        if len(self.unreadable) > allowed:
            named = ", ".join(sorted(self.unreadable)[:3])
            raise ValueError(
                f"{len(self.unreadable)} of the {self.read_count} files that this process read "
                f"under {self.root} cannot be read as images, more than the {allowed} allowed: "
                f"{named}. Replace or delete them"
            )


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """Training and held-out images; items are (transformed image, label)."""

    train: Dataset[Any]
    held_out: Dataset[Any]
    classes: int


def load(
    config: Vision, folder: Path | None, *, train: Transform, held_out: Transform
) -> ImageSplits:
    """Return the images that ``config.data`` names.

    Args:
        folder: path of the data set from site.toml; None for digits, which are embedded.
        train: transform of the training images.
        held_out: transform of the held-out images.

    Raises:
        ValueError: for a data set that this package does not support.
    """
    if config.data == "digits":
        size = config.image_size
        return ImageSplits(
            train=Digits(train=True, size=size, transform=train),
            held_out=Digits(train=False, size=size, transform=held_out),
            classes=10,
        )
    if config.data in FOLDER_SETS:
        assert folder is not None, "the harness resolves the path before the task starts"
        return ImageSplits(
            train=SubstitutingImageFolder(folder / "train", train, tolerant=True),
            held_out=SubstitutingImageFolder(folder / "val", held_out, tolerant=False),
            classes=FOLDER_SETS[config.data].classes,
        )
    raise ValueError(f"data is {config.data!r}; expected digits or {', '.join(FOLDER_SETS)}")


def first_of_each_class(dataset: Any, count: int) -> Subset[Any]:
    """Return the first ``count`` images of each class, for training with few labels.

    Raises:
        ValueError: if a class has fewer.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(dataset.targets):
        by_class.setdefault(label, []).append(index)
    for label, indices in sorted(by_class.items()):
        if len(indices) < count:
            raise ValueError(
                f"labels_per_class is {count}, but class {label} has {len(indices)} images"
            )
    return Subset(dataset, sorted(i for indices in by_class.values() for i in indices[:count]))
