"""The learnable scalars that stand in a residual branch where a norm layer or nothing stood.

Their parameters have shape (1,): FSDP shards no tensor without dimensions, and parameters of one
dimension are not decayed. They are called ``scalar``, so that no weight of a LayerNorm or a
LayerScale is ever loaded into one by name.
"""

from __future__ import annotations

import torch
from torch import nn


class ScalarBias(nn.Module):
    """x + b with one learnable b for all elements, 0 at the start.

    Shapes: input and output (*), any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scalar


class ScalarScale(nn.Module):
    """a·x with one learnable a for all elements.

    Shapes: input and output (*), any.

    Args:
        start: the initial a.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.full((1,), float(start)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scalar
