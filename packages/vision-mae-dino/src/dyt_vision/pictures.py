"""Image grids written as PNG files into a run's directory."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from matched.task import Context, Outcome
from matched.training.distributed import on_rank0

log = logging.getLogger("matched")
MIN_SIDE = 96
"""Smallest side of an image in pixels; smaller ones are enlarged by an integer factor."""


def save(context: Context, name: str, rows: Tensor) -> None:
    """Write ``name`` into the run's directory, replacing an earlier version.

    Called by all processes. A full disk is logged and does not stop the run.

    Args:
        rows: images (rows, columns, 3, H, W) with values from 0 to 1.
    """
    on_rank0(lambda: _save(context, name, rows))


def with_picture(outcome: Outcome, context: Context, name: str) -> Outcome:
    """Return the outcome with the name of the picture that tables show, if it was written."""
    if not (context.directory / name).is_file():  # diverged before the first evaluation
        return outcome
    return replace(outcome, details={**outcome.details, "picture": name})


def _save(context: Context, name: str, rows: Tensor) -> None:
    columns = rows.shape[1]
    images = rearrange(rows.detach().float().cpu(), "row column rgb h w -> (row column) rgb h w")
    factor = max(1, -(-MIN_SIDE // images.shape[-1]))
    images = F.interpolate(images, scale_factor=factor, mode="nearest")
    grid = make_grid(images, nrow=columns, padding=2, pad_value=1.0)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8)
    try:
        with context.atomic_write(name) as temporary:
            image = Image.fromarray(rearrange(pixels, "rgb h w -> h w rgb").numpy())
            image.save(temporary, format="PNG")
    except OSError as error:
        log.warning("%s could not be written: %s", name, error)
