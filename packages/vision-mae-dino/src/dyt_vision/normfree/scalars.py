"""Learnable scalars of residual branches, in slots of norm layers, LayerScales or identities.

Their parameters have shape (1,): FSDP cannot shard a tensor without dimensions, and parameters of
one dimension are not decayed. They are called ``scalar``, so that no weight of a LayerNorm or a
LayerScale can be loaded into one by name.
"""

from __future__ import annotations

import torch
from torch import nn


class ScalarBias(nn.Module):
    """x + b with one learnable b for all elements, initially 0.

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
