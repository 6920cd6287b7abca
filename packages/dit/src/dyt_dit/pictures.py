"""A picture of generated images, class by class: people would rather look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.utils import make_grid

from dyt_dit.image_sets import ImageFile
from matched.files import atomic_write

ROWS, COLUMNS = 10, 8
SIDE = 64
"""Smallest height of an image in pixels; smaller ones are enlarged by a whole factor."""
WHITE = 255


def draw(path: Path, images: ImageFile) -> None:
    """Write a PNG with a row for each class, of the first images that the set has of it.

    Of more than ten classes ten are shown, spread evenly; a class with few images has white places.
    """
    labels = images.labels()
    classes = np.unique(labels)
    rows = min(ROWS, len(classes))
    shown = classes[np.arange(rows) * len(classes) // rows]
    height, width = images.shape[1:3]
    cells = torch.full((rows, COLUMNS, 3, height, width), WHITE, dtype=torch.uint8)
    for row, label in enumerate(shown):
        for column, place in enumerate(np.flatnonzero(labels == label)[:COLUMNS].tolist()):
            cells[row, column] = torch.from_numpy(images[place : place + 1][0]).permute(2, 0, 1)
    factor = max(1, -(-SIDE // height))
    enlarged = F.interpolate(cells.flatten(0, 1), scale_factor=factor, mode="nearest")
    grid = make_grid(enlarged, nrow=COLUMNS, padding=2, pad_value=WHITE)
    with atomic_write(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
