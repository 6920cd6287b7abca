"""Formulas of LN and RMSNorm that detection accepts, and inputs to compare layers with them on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["layernorm", "batchnorm"]


def input_sizes(width: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (channel axis, input sizes) to try; no other axis is as long as the channels."""
    h, w = [n for n in range(3, 6 + len(width)) if n not in width][:2]
    yield -1, (2, h, *width)
    yield -1, (2, h, w, *width)
    if len(width) == 1:
        yield 1, (2, *width, h)
        yield 1, (2, *width, h, w)


def formulas(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int
) -> Iterator[tuple[float, Kind | None, Tensor]]:
    """Yield (weight offset, kind, output) of all accepted norms, in order of precedence."""
    shape = () if weight is None else weight.shape
    candidate_dims = {(axis,), tuple(range(-len(shape), 0))} if len(shape) > 1 else {(axis,)}
    column = (-1, *(1,) * (x.ndim - 2)) if axis == 1 else shape
    for dims in candidate_dims:
        centered = x - x.mean(dims, keepdim=True)
        normals: tuple[tuple[Kind | None, Tensor], ...] = (
            ("layernorm", centered / centered.square().mean(dims, keepdim=True).sqrt()),
            (None, x / x.square().mean(dims, keepdim=True).sqrt()),  # RMSNorm
            (None, x / x.std(dims, keepdim=True)),  # timm's SimpleNorm
            (None, centered / x.std(dims, keepdim=True)),  # "The Annotated Transformer"
        )
        for kind, normal in normals:
            if weight is None:
                yield 0.0, kind, normal
                continue
            shift = 0.0 if bias is None else bias.view(column)
            for offset in (0.0, 1.0):
                yield offset, kind, normal * (offset + weight.view(column)) + shift


def is_close(y: object, expected: Tensor) -> bool:
    """True if the output of a norm layer is that of a formula."""
    if not isinstance(y, Tensor) or y.shape != expected.shape:
        return False
    return torch.allclose(y.float(), expected, rtol=1e-3, atol=1e-3)
