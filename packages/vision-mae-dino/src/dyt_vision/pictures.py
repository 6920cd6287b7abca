"""Small PNGs beside a run's results: people would rather look."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from matched.files import written_whole
from matched.worker import Context

SIDE = 96
"""Smallest height of an image in pixels; smaller ones are enlarged by a whole factor."""


def save(context: Context, name: str, rows: Tensor) -> None:
    """Write ``name`` into the run's directory, in the place of an earlier one.

    Args:
        rows: images (rows, columns, 3, H, W) with values from 0 to 1.
    """
    if context.rank != 0:
        return
    columns = rows.shape[1]
    images = rows.detach().float().cpu().flatten(0, 1)
    factor = max(1, -(-SIDE // images.shape[-1]))
    images = F.interpolate(images, scale_factor=factor, mode="nearest")
    grid = make_grid(images, nrow=columns, padding=2, pad_value=1.0)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    context.confirm()
    with written_whole(context.directory / name) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
