"""Image sets of the diffusion runs: uint8 images of one size, their labels, and batched reading.

The data sets themselves, and what counts as an unreadable file, are those of
``dyt_vision.image_data``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dyt_vision import image_data
from dyt_vision.image_data import UnreadableImageError
from matched.training.batches import start_method

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
IMAGENET_FOLDERS = {"train": "train", "held_out": "val"}
"""Folder of each split within ImageNet's."""


class ImageSet(Dataset[Any]):
    """Images uint8 (3, H, W), H = W, and their labels.

    Attributes:
        targets: the label of every image.
        classes: number of classes.
    """

    targets: list[int]
    classes: int

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: if the file cannot be decoded.
        """
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return the name of an image: for files, the path relative to the split's folder."""
        raise NotImplementedError

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """Return a hash that identifies the images from ``start`` to before ``stop``."""
        raise NotImplementedError


def open_split(name: str, folder: Path | None, split: Split, image_size: int) -> ImageSet:
    """Open a split of an image data set.

    Args:
        name: "digits" or "imagenet".
        folder: path of the data set from site.toml; None for digits, which are embedded.
        split: "train" or "held_out".
        image_size: height and width of the images in pixels.

    Raises:
        ValueError: for a data set that this package does not support.
    """
    if name == "digits":
        return Digits(split, image_size)
    if name == "imagenet":
        assert folder is not None, "the harness resolves the path before the task starts"
        return ImageNet(folder / IMAGENET_FOLDERS[split], image_size)
    raise ValueError(f"data is {name!r}; expected 'digits' or 'imagenet'")


class Digits(ImageSet):
    """scikit-learn's digits, enlarged or reduced to ``image_size``.

    Attributes:
        pixels: the original gray images, uint8 (N, 8, 8).
    """

    classes = 10

    def __init__(self, split: Split, image_size: int) -> None:
        self.digits = image_data.Digits(
            train=split == "train", size=image_size, transform=as_tensor
        )
        self.pixels, self.targets = self.digits.pixels, self.digits.targets

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.digits[index]

    def name(self, index: int) -> str:
        return f"digit {self.digits.first + index}"

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """Return a hash of pixels and labels."""
        labels = repr(self.targets[start:stop]).encode()
        return hashlib.sha256(self.pixels[start:stop].tobytes() + labels).hexdigest()


class ImageNet(ImageSet):
    """Center crops of the images in a folder with one subfolder for each class."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.files = image_data.ImageFolder(str(folder))
        self.folder = folder
        self.image_size = image_size
        self.targets = self.files.targets
        self.classes = len(self.files.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.files.read(index)
        return as_tensor(center_crop(image, self.image_size)), label

    def name(self, index: int) -> str:
        return self._path(index).relative_to(self.folder).as_posix()

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """Return a hash of names, sizes and labels of the files, whose contents are not read."""
        value = hashlib.sha256()
        for index in range(len(self))[start:stop]:
            size = self._path(index).stat().st_size
            value.update(f"{self.name(index)} {size} {self.targets[index]}\n".encode())
        return value.hexdigest()

    def _path(self, index: int) -> Path:
        path, _ = self.files.samples[index]
        return Path(path)


def as_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 (3, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return rearrange(pixels, "h w rgb -> rgb h w").contiguous()


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the smaller side of an image to ``size`` and crop its center, as ADM and DiT do.

    The image is halved by averaging as long as it stays at least ``size``; PIL's bicubic filter
    only does the rest. The networks were trained and are evaluated on images scaled in this way.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled_size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(scaled_size, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive images of a set.

    Attributes:
        images: uint8 (B, 3, H, W), without the unreadable ones; B may be 0.
        indices: the images' indices within the set.
        unreadable: index → reason why an image is missing.
    """

    images: Tensor
    indices: list[int]
    unreadable: dict[int, str] = field(default_factory=dict)


class Reader:
    """Batched reading of ranges of an image set, with worker processes that outlive a range.

    Args:
        images: the set.
        batch: images per batch.
        num_workers: worker processes; 0 reads in this process.
    """

    def __init__(self, images: ImageSet, *, batch: int, num_workers: int) -> None:
        self.batch = batch
        # The loader iterates over this list again for every range that is read. Its items are
        # ranges; DataLoader's annotation asks for lists.
        self.ranges: list[Any] = []
        self.loader = DataLoader(
            _CatchUnreadable(images),
            batch_sampler=self.ranges,
            collate_fn=_collate,
            num_workers=num_workers,
            multiprocessing_context=start_method(num_workers),
            persistent_workers=num_workers > 0,
        )

    def read(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the images from ``start`` to before ``stop`` in batches."""
        starts = range(start, stop, self.batch)
        ends = [*starts[1:], stop]
        self.ranges[:] = [range(begin, end) for begin, end in zip(starts, ends, strict=True)]
        yield from self.loader


class _CatchUnreadable(Dataset[Any]):
    """An image set that returns the message of an unreadable file instead of raising it."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            image, _ = self.images[index]
            return index, image
        except UnreadableImageError as error:
            return index, str(error)


def _collate(items: Sequence[tuple[int, Tensor | str]]) -> Batch:
    readable = [(index, image) for index, image in items if isinstance(image, Tensor)]
    return Batch(
        images=(
            torch.stack([image for _, image in readable]) if readable else torch.empty(0, 3, 0, 0)
        ),
        indices=[index for index, _ in readable],
        unreadable={index: reason for index, reason in items if isinstance(reason, str)},
    )
