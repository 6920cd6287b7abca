"""The image data sets that runs name, and what their folders must look like; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from matched import DataSource

LAYOUT = (
    "expected an ImageFolder: train/<class>/<image> and val/<class>/<image> "
    "with the same classes in both"
)


def check_image_folder(path: Path, classes: int) -> None:
    """Look at the two levels of folders; the images themselves are not opened.

    Raises:
        ValueError: saying what is missing and what layout is expected.
    """
    found = {}
    for split in ("train", "val"):
        if not (path / split).is_dir():
            raise ValueError(f"{path} has no folder {split}/; {LAYOUT}")
        found[split] = {entry.name for entry in os.scandir(path / split) if entry.is_dir()}
        if len(found[split]) != classes:
            raise ValueError(
                f"{path / split} has {len(found[split])} class folders, not {classes}; {LAYOUT}"
            )
        empty = next((c for c in sorted(found[split]) if _is_empty(path / split / c)), None)
        if empty is not None:
            raise ValueError(f"{path / split / empty} holds no file; {LAYOUT}")
    if odd := sorted(found["train"] ^ found["val"]):
        raise ValueError(f"class {odd[0]} is in only one of train/ and val/; {LAYOUT}")


def _is_empty(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _check_imagenet(path: Path) -> None:
    check_image_folder(path, classes=1000)


DIGITS = DataSource(title="scikit-learn digits (1,797 real handwritten digits, 360 held out)")
IMAGENET = DataSource(title="ImageNet-1K", check=_check_imagenet)
