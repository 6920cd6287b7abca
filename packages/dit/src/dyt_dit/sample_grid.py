"""Sample grid: a PNG of generated images with one row per class, for visual inspection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torchvision.utils import make_grid

from dyt_dit.image_npz import ImageFile
from matched.files import atomic_write

ROWS, COLUMNS = 10, 8
MIN_HEIGHT = 64
"""Minimum height of an image in pixels; smaller ones are enlarged by a whole factor."""
WHITE = 255


def draw_sample_grid(path: Path, images: ImageFile) -> None:
    """Write a PNG with one row per class, which shows the first images of that class in the set.

    At most ten classes are shown, spread evenly; missing images are white.
    """
    labels = images.labels()
    classes = np.unique(labels)
    rows = min(ROWS, len(classes))
    shown = classes[np.arange(rows) * len(classes) // rows]
    height, width = images.shape[1:3]
    cells = torch.full((rows, COLUMNS, 3, height, width), WHITE, dtype=torch.uint8)
    for row, label in enumerate(shown):
        for column, index in enumerate(np.flatnonzero(labels == label)[:COLUMNS].tolist()):
            image = torch.from_numpy(images[index : index + 1])
            cells[row, column] = rearrange(image, "1 h w c -> c h w")
    factor = max(1, -(-MIN_HEIGHT // height))
    flat = rearrange(cells, "row column c h w -> (row column) c h w")
    enlarged = F.interpolate(flat, scale_factor=factor, mode="nearest")
    grid = make_grid(enlarged, nrow=COLUMNS, padding=2, pad_value=WHITE)
    with atomic_write(path) as temporary:
        Image.fromarray(rearrange(grid, "c h w -> h w c").numpy()).save(temporary, format="PNG")
