"""Image sets as the diffusion runs see them: uint8 pictures of one size, with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
FOLDERS = {"train": "train", "held_out": "val"}
"""The folder of ImageNet in which a split lies."""

DIGITS_HELD_OUT = 360
UNREADABLE = 0.001
"""Share of a training set's files that may be unreadable."""


class Unreadable(ValueError):
    """A file that is there and cannot be decoded as an image; the message names it."""


class ImageSet(Dataset):
    """Pictures (3, H, W) of uint8, H = W, and their labels.

    Attributes:
        targets: the label of every image.
        classes: how many there are.
    """

    targets: list[int]
    classes: int

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """
        Raises:
            Unreadable: if the file cannot be decoded.
        """
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What the set calls an image; a path relative to its folder, where it lies in one."""
        raise NotImplementedError

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """A hash that tells these images from others; all of them by default."""
        raise NotImplementedError


def open_split(name: str, folder: Path | None, split: Split, image_size: int) -> ImageSet:
    """A part of an image data set.

    Args:
        name: "digits" or "imagenet".
        folder: where site.toml says that it lies; None for digits, which are embedded.
        image_size: height and width in pixels of the pictures.

    Raises:
        ValueError: for a data set that this package does not know.
    """
    if name == "digits":
        return Digits(split, image_size)
    if name == "imagenet":
        assert folder is not None, "the harness resolves the path before the task starts"
        return Folder(folder / FOLDERS[split], image_size)
    raise ValueError(f"data {name!r} is no image set of this task; use digits or imagenet")


class Digits(ImageSet):
    """scikit-learn's digits as RGB images; the last 360, in the order of the set, are held out."""

    classes = 10

    def __init__(self, split: Split, image_size: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        train, held_out = slice(None, -DIGITS_HELD_OUT), slice(-DIGITS_HELD_OUT, None)
        part = train if split == "train" else held_out
        self.first = range(len(digits.images))[part].start
        self.targets = digits.target[part].tolist()
        self.pixels = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
        self.size = (image_size, image_size)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index])
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BICUBIC)
        return as_tensor(image.convert("RGB")), self.targets[index]

    def name(self, index: int) -> str:
        return f"digit {self.first + index}"

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        labels = repr(self.targets[start:stop]).encode()
        return hashlib.sha256(self.pixels[start:stop].tobytes() + labels).hexdigest()


class Folder(ImageSet):
    """Images in a folder for each class, as torchvision's ImageFolder orders them, cropped."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.files = ImageFolder(str(folder))
        self.folder = folder
        self.image_size = image_size
        self.targets = self.files.targets
        self.classes = len(self.files.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files.samples[index]
        try:
            image = self.files.loader(path)
        except OSError as error:
            if error.errno is not None:  # a lost mount or no permission says nothing of the image
                raise
            raise Unreadable(_reason(path, error)) from error
        # What PIL raises on some broken headers, such as one that promises gigapixels.
        except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Unreadable(_reason(path, error)) from error
        return as_tensor(centre_crop(image, self.image_size)), label

    def name(self, index: int) -> str:
        return Path(self.files.samples[index][0]).relative_to(self.folder).as_posix()

    def digest(self, start: int = 0, stop: int | None = None) -> str:
        """Of names and sizes of the files, which are not read for it."""
        value = hashlib.sha256()
        for index in range(len(self))[start:stop]:
            size = Path(self.files.samples[index][0]).stat().st_size
            value.update(f"{self.name(index)} {size} {self.targets[index]}\n".encode())
        return value.hexdigest()


def _reason(path: str, error: Exception) -> str:
    return f"{path} cannot be read as an image: {error}"


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image, whose smaller side is scaled to ``size``, as ADM and DiT have it.

    It is halved by averaging until that would go below ``size``, for PIL's bicubic filter comes
    after averages only in what these networks were trained and are evaluated on.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled = (round(image.width * scale), round(image.height * scale))
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images that lie one after the other in a set.

    Attributes:
        images: uint8 (B, 3, H, W), without the unreadable ones; B may be 0.
        indices: of the images, in the set.
        unreadable: index → why an image is missing.
    """

    images: Tensor
    indices: list[int]
    unreadable: dict[int, str] = field(default_factory=dict)


class Reader:
    """Reads parts of an image set, by the same loading processes from the first part to the last.

    Args:
        batch: images at a time.
        num_workers: processes that load; 0 loads in this one.
    """

    def __init__(self, images: ImageSet, *, batch: int, num_workers: int) -> None:
        self.batch = batch
        self.parts: list[range] = []
        # The loader asks for this list anew whenever it is iterated.
        self.loader = DataLoader(
            _Told(images),
            batch_sampler=self.parts,
            collate_fn=_batch,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def read(self, start: int, stop: int) -> Iterator[Batch]:
        """The images from ``start`` to before ``stop``."""
        ends = [*range(start, stop, self.batch)[1:], stop]
        self.parts[:] = [
            range(begin, end)
            for begin, end in zip(range(start, stop, self.batch), ends, strict=True)
        ]
        yield from self.loader


class _Told(Dataset):
    """An image set that hands over what is wrong with a file instead of raising it."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.images[index][0]
        except Unreadable as error:
            return index, str(error)


def _batch(items: Sequence[tuple[int, Tensor | str]]) -> Batch:
    read = [(index, image) for index, image in items if isinstance(image, Tensor)]
    return Batch(
        images=torch.stack([image for _, image in read]) if read else torch.empty(0, 3, 0, 0),
        indices=[index for index, _ in read],
        unreadable={index: why for index, why in items if isinstance(why, str)},
    )
