"""Image data sets that runs name, and checks of their folders; imports no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matched import DataSource
from matched.data_files import (
    find_file,
    is_empty,
    list_entries,
    list_files,
    list_folders,
    list_loose_files,
    refuse_pointers,
)

log = logging.getLogger("matched")

LAYOUT = (
    "expected an ImageFolder: train/<class>/<image> and val/<class>/<image> "
    "with the same classes in both"
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's IMG_EXTENSIONS."""
SPLITS = ("train", "val")
POINTERS_PER_CLASS = 10
"""Images of each class that a survey checks for pointers, spread evenly over the class."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights in a folder of timm/* on Hugging Face."""
MAX_NAMES = 3
"""Names listed in a message about many."""


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """Images of a split, in total and per class."""

    images: int
    smallest_class: int
    largest_class: int


@dataclass(frozen=True, kw_only=True)
class FolderSet:
    """A published image set as an ImageFolder: its name, classes and images.

    Attributes:
        layout_note: what to do with the archive as it is published, for messages.
    """

    title: str
    classes: int
    sizes: Mapping[str, SplitSize]
    layout_note: str = ""

    def check(self, path: Path) -> None:
        """Refuse a folder without the classes of this set; images are not listed."""
        try:
            check_image_folder(path, self.classes)
        except ValueError as error:
            note = f"; {self.layout_note}" if self.layout_note else ""
            raise ValueError(f"{error}{note}") from None

    def survey(self, path: Path) -> None:
        """Refuse a folder without the images of this set; see ``survey_image_folder``."""
        survey_image_folder(path, self.sizes, self.title)


IMAGENET_1K = {
    "train": SplitSize(images=1_281_167, smallest_class=732, largest_class=1300),
    "val": SplitSize(images=50_000, smallest_class=50, largest_class=50),
}
"""Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge" (2015), Table 2."""
FOLDER_SETS = {
    "imagenet": FolderSet(title="ImageNet-1K", classes=1000, sizes=IMAGENET_1K),
    # Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), Section 3.1.
    "cifar100": FolderSet(
        title="CIFAR-100",
        classes=100,
        sizes={
            "train": SplitSize(images=50_000, smallest_class=500, largest_class=500),
            "val": SplitSize(images=10_000, smallest_class=100, largest_class=100),
        },
        layout_note="write the published arrays as PNG files, the test set as val/",
    ),
    # Le and Yang, "Tiny ImageNet Visual Recognition Challenge" (2015).
    "tiny-imagenet": FolderSet(
        title="Tiny ImageNet",
        classes=200,
        sizes={
            "train": SplitSize(images=100_000, smallest_class=500, largest_class=500),
            "val": SplitSize(images=10_000, smallest_class=50, largest_class=50),
        },
        layout_note=(
            "move each published validation image into the folder of its class, which "
            "val_annotations.txt names"
        ),
    ),
}
"""Data source → image set."""
MAX_MISSING_SHARE = 0.01
"""Share of the training images that may be missing, with a warning."""


def check_image_folder(path: Path, classes: int) -> None:
    """Check the two levels of folders; images are not listed.

    Raises:
        ValueError: naming what is missing or not expected, and the expected layout.
    """
    folders = {}
    for split in SPLITS:
        if not (path / split).is_dir():
            raise ValueError(f"{path} has no folder {split}/; {LAYOUT}")
        folders[split] = list_folders(path / split)
    for split, other in (SPLITS, SPLITS[::-1]):
        if len(folders[split]) != classes:
            raise ValueError(_wrong_class_count(path / split, folders, split, other, classes))
        for name in folders[split]:
            if is_empty(path / split / name):
                flat = _unpacked_flat(path / split)
                raise ValueError(f"{path / split / name} is empty{flat}; {LAYOUT}")
    if unmatched := sorted(set(folders["train"]) ^ set(folders["val"])):
        raise ValueError(f"class {unmatched[0]} is in only one of train/ and val/; {LAYOUT}")


def _wrong_class_count(
    folder: Path, folders: Mapping[str, list[str]], split: str, other: str, classes: int
) -> str:
    """Return the message for a split with another number of class folders, naming the odd ones."""
    names = folders[split]
    message = f"{folder} has {len(names)} class folders, not {classes}"
    if len(names) < classes and (flat := _unpacked_flat(folder)):
        return f"{message}{flat}; {LAYOUT}"
    synsets = [name for name in names if re.fullmatch(r"n\d{8}", name)]
    if len(names) > classes and len(synsets) >= classes:
        odd = sorted(set(names) - set(synsets))
    elif len(names) > classes:
        odd = sorted(set(names) - set(folders[other]))
    else:
        odd = []
    if odd:
        return f"{message}; move what is not a class out of {split}/: {_some(odd)}; {LAYOUT}"
    if missing := sorted(set(folders[other]) - set(names)):
        return f"{message}; {other}/ also has {_some(missing)}; {LAYOUT}"
    return f"{message}; {LAYOUT}"


def _unpacked_flat(folder: Path) -> str:
    """Return what to say about images outside of the class folders, or "" if there are none."""
    loose = [name for name in list_loose_files(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not loose:
        return ""
    return (
        f", and {folder} has {len(loose):,} images outside of class folders: {loose[0]}, …; it "
        "was unpacked flat: move each image into the folder of its class"
    )


def survey_image_folder(path: Path, sizes: Mapping[str, SplitSize], title: str) -> None:
    """Count the images of every class, without opening them, and compare the counts with ``sizes``.

    The held-out split must be complete, because accuracies on another set cannot be compared.
    Training images may be missing, with a warning: up to ``MAX_MISSING_SHARE`` of all, and in one
    class as many as leave half of the smallest class of the set. ``POINTERS_PER_CLASS`` images
    of every class are checked for pointers of git-lfs and git-annex; a pointer among the others
    counts as an unreadable image when it is read.

    Args:
        title: name of the set, for messages.

    Raises:
        ValueError: naming a class that has too few images, or the number of missing images.
    """
    for split, expected in sizes.items():
        folder = path / split
        counts = dict(_count_images(folder))
        _check_classes(folder, counts, expected, title, complete=split != "train")
        _check_total(folder, sum(counts.values()), expected, title)
        if files := list_loose_files(folder):
            log.warning("%s has files outside of its class folders: %s", folder, _some(files))


def _count_images(folder: Path) -> Iterator[tuple[str, int]]:
    for name in list_folders(folder):
        images = list_files(folder / name, IMAGE_SUFFIXES)
        if not images:
            others = [entry.name for entry in list_entries(folder / name)]
            raise ValueError(
                f"{folder / name} has no images, but {_some(others)}; expected files of the kinds "
                f"{', '.join(IMAGE_SUFFIXES)}. Unpack archives, then submit again"
            )
        refuse_pointers(images, most=POINTERS_PER_CLASS)
        yield name, len(images)


def _check_classes(
    folder: Path, counts: Mapping[str, int], expected: SplitSize, title: str, *, complete: bool
) -> None:
    if complete:
        wrong = [name for name, count in counts.items() if count != expected.smallest_class]
    else:
        wrong = [name for name, n in counts.items() if 2 * n < expected.smallest_class]
    size = f"{expected.smallest_class}"
    if expected.largest_class != expected.smallest_class:
        size = f"{size} to {expected.largest_class:,}"
    if wrong:
        raise ValueError(
            f"{len(wrong):,} of the {len(counts):,} classes in {folder} have another number of "
            f"images than {title}, such as {wrong[0]} with {counts[wrong[0]]:,}; expected "
            f"{size} per class. Unpack their archives again"
        )


def _check_total(folder: Path, images: int, expected: SplitSize, title: str) -> None:
    missing = expected.images - images
    count = f"{folder} has {images:,} images, and {title} has {expected.images:,}"
    if missing > MAX_MISSING_SHARE * expected.images:
        raise ValueError(
            f"{count}; at most {MAX_MISSING_SHARE:.0%} may be missing. Unpack its archives again"
        )
    if missing:
        log.warning("%s; results may differ from those on the complete set", count)


def _some(names: list[str]) -> str:
    return ", ".join([*names[:MAX_NAMES], "…"] if len(names) > MAX_NAMES else names)


def _folder_source(name: str) -> DataSource:
    images = FOLDER_SETS[name]
    return DataSource(title=images.title, check=images.check, survey=images.survey)


def weights_file(path: Path) -> Path:
    """Return the file of weights: the path itself, or a file of a timm folder of Hugging Face.

    Raises:
        ValueError: if there is none, or it is a pointer of git-lfs or git-annex.
    """
    expected = "the state dict of a timm model, or its folder from Hugging Face"
    return find_file(path, WEIGHTS, expected)


def _check_weights(path: Path) -> None:
    weights_file(path)


VIT_B_WEIGHTS = DataSource(title="released weights of timm's ViT-B", check=_check_weights)
DIGITS = DataSource(title="scikit-learn digits (1,797 real handwritten digits, 360 held out)")
IMAGENET = _folder_source("imagenet")
CIFAR100 = _folder_source("cifar100")
TINY_IMAGENET = _folder_source("tiny-imagenet")
