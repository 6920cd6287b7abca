"""Says what every kernel computes: DyT's formula and its gradients, in plain tensor operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
    "erf": torch.erf,
}


def formula(
    x: Tensor,
    alpha: Tensor | None,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
) -> Tensor:
    """γ·squash(αx + s) + β, as one writes it; autograd differentiates it."""
    y = x if alpha is None else alpha * x
    if shift is not None:
        y = y + shift
    y = SQUASHES[squash](y)
    if weight is not None:
        y = y * along_channels(weight, x.ndim, channel_axis)
    if bias is not None:
        y = y + along_channels(bias, x.ndim, channel_axis)
    return y


def gradients(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
) -> tuple[Tensor, ...]:
    """The gradients of x, α, s, γ and β from x alone; empty where there is no parameter."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    grad, wide_x, wide_alpha = grad.to(wide), x.to(wide), alpha.to(wide).reshape(())
    u = wide_alpha * wide_x
    if shift is not None:
        u = u + shift.to(wide).reshape(())
    y = SQUASHES[squash](u)
    slope = grad * (1 - y * y if squash == "tanh" else torch.exp(-u * u) * (2 / math.sqrt(math.pi)))
    if weight is not None:
        slope = slope * along_channels(weight.to(wide), x.ndim, channel_axis)

    def total(values: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return grad.new_empty(0)
        if others := other_axes(x.ndim, parameter.ndim, channel_axis):
            values = values.sum(others)
        return values.to(parameter.dtype, copy=True)  # an operator returns no alias of its input

    def whole(values: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return grad.new_empty(0)
        return values.sum().reshape(parameter.shape).to(parameter.dtype)

    return (
        (slope * wide_alpha).to(x.dtype),
        whole(slope * wide_x, alpha),
        whole(slope, shift),
        total(grad * y, weight),
        total(grad, bias),
    )


def along_channels(parameter: Tensor, ndim: int, channel_axis: int) -> Tensor:
    """A parameter in the shape that broadcasts along the channels of an ndim-dimensional input."""
    if channel_axis == -1:
        return parameter
    return parameter.view(-1, *(1,) * (ndim - channel_axis - 1))


def other_axes(ndim: int, width: int, channel_axis: int) -> list[int]:
    """The axes that are no channels: what γ's and β's gradients are summed over."""
    if channel_axis == -1:
        return list(range(ndim - width))
    return [axis for axis in range(ndim) if axis != channel_axis]


def result_dtype(x: Tensor, alpha: Tensor, *others: Tensor | None) -> torch.dtype:
    """The dtype that the formula's type promotion ends in; s, γ and β are `others`."""
    dtype = torch.result_type(alpha, x)
    for parameter in others:
        if parameter is not None and (parameter.ndim > 0 or x.ndim == 0):
            dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
