"""Says what every kernel computes: DyT's formula and its gradients, in plain tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor


def formula(
    x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None, channel_axis: int
) -> Tensor:
    """γ·tanh(αx) + β, as one writes it; autograd differentiates it."""
    y = torch.tanh(alpha * x)
    if weight is not None:
        y = y * along_channels(weight, x.ndim, channel_axis)
    if bias is not None:
        y = y + along_channels(bias, x.ndim, channel_axis)
    return y


def gradients(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    channel_axis: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, α, γ and β from x alone; empty where there is no parameter."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    grad, wide_x, wide_alpha = grad.to(wide), x.to(wide), alpha.to(wide).reshape(())
    t = torch.tanh(wide_alpha * wide_x)
    slope = grad * (1 - t * t)
    if weight is not None:
        slope = slope * along_channels(weight.to(wide), x.ndim, channel_axis)

    def total(values: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return grad.new_empty(0)
        if others := other_axes(x.ndim, parameter.ndim, channel_axis):
            values = values.sum(others)
        return values.to(parameter.dtype, copy=True)  # an operator returns no alias of its input

    return (
        (slope * wide_alpha).to(x.dtype),
        (slope * wide_x).sum().reshape(alpha.shape).to(alpha.dtype),
        total(grad * t, weight),
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


def result_dtype(
    x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None
) -> torch.dtype:
    """The dtype that the formula's type promotion ends in."""
    dtype = torch.result_type(alpha, x)
    for parameter in (weight, bias):
        if parameter is not None:
            dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
