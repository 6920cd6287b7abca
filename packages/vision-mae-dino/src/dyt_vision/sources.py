"""Image data sets that runs name, and the expected layout of their folders; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from matched import DataSource

LAYOUT = (
    "expected an ImageFolder: train/<class>/<image> and val/<class>/<image> "
    "with the same classes in both"
)


def check_image_folder(path: Path, classes: int) -> None:
    """Check the two levels of folders; images are not opened.

    Raises:
        ValueError: naming what is missing and the expected layout.
    """
    class_folders = {}
    for split in ("train", "val"):
        if not (path / split).is_dir():
            raise ValueError(f"{path} has no folder {split}/; {LAYOUT}")
        names = {entry.name for entry in os.scandir(path / split) if entry.is_dir()}
        if len(names) != classes:
            raise ValueError(
                f"{path / split} has {len(names)} class folders, not {classes}; {LAYOUT}"
            )
        empty = next((name for name in sorted(names) if _is_empty(path / split / name)), None)
        if empty is not None:
            raise ValueError(f"{path / split / empty} is empty; {LAYOUT}")
        class_folders[split] = names
    if unmatched := sorted(class_folders["train"] ^ class_folders["val"]):
        raise ValueError(f"class {unmatched[0]} is in only one of train/ and val/; {LAYOUT}")


def _is_empty(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _check_imagenet(path: Path) -> None:
    check_image_folder(path, classes=1000)


DIGITS = DataSource(title="scikit-learn digits (1,797 real handwritten digits, 360 held out)")
IMAGENET = DataSource(title="ImageNet-1K", check=_check_imagenet)
