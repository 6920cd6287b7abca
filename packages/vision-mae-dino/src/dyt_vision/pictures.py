"""Small PNGs beside a run's results: people would rather look."""

from __future__ import annotations

import logging

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from matched.task import Context
from matched.training.distributed import on_rank0

log = logging.getLogger("matched")
SIDE = 96
"""Smallest height of an image in pixels; smaller ones are enlarged by a whole factor."""


def save(context: Context, name: str, rows: Tensor) -> None:
    """Write ``name`` into the run's directory, in the place of an earlier one.

    Called by all processes; a disk without room costs the picture and not the run.

    Args:
        rows: images (rows, columns, 3, H, W) with values from 0 to 1.
    """
    on_rank0(lambda: _save(context, name, rows))


def _save(context: Context, name: str, rows: Tensor) -> None:
    columns = rows.shape[1]
    images = rows.detach().float().cpu().flatten(0, 1)
    factor = max(1, -(-SIDE // images.shape[-1]))
    images = F.interpolate(images, scale_factor=factor, mode="nearest")
    grid = make_grid(images, nrow=columns, padding=2, pad_value=1.0)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    try:
        with context.atomic_write(name) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
    except OSError as error:
        log.warning("%s could not be written: %s", name, error)
