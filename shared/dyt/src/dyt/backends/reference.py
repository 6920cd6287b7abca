"""Reference implementation of all kernels: DyT's formula and its gradients in plain tensor ops."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SQUASHES = ("tanh", "hardtanh", "sigmoid", "identity", "erf")


def squashed(u: Tensor, squash: str) -> Tensor:
    """Return the squashing function of this name, one of SQUASHES, of u."""
    if squash == "tanh":
        return torch.tanh(u)
    if squash == "hardtanh":
        return F.hardtanh(u)
    if squash == "sigmoid":
        return torch.sigmoid(u)
    if squash == "erf":
        return torch.erf(u)
    return u


def formula(
    x: Tensor,
    alpha: Tensor | None,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
) -> Tensor:
    """Compute γ·squash(αx + s) + β in plain operations, which autograd differentiates.

    torch.jit.script compiles this function.
    """
    y = x if alpha is None else alpha * x
    if shift is not None:
        y = y + shift
    y = squashed(y, squash)
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
    """Return the gradients of x, α, s, γ and β, recomputed from x without any saved activation.

    The gradient of an absent parameter is an empty tensor.
    """
    wide = torch.promote_types(grad.dtype, torch.float32)
    grad, wide_x, wide_alpha = grad.to(wide), x.to(wide), alpha.to(wide).reshape(())
    u = wide_alpha * wide_x
    if shift is not None:
        u = u + shift.to(wide).reshape(())
    y = squashed(u, squash)
    slope = grad * (1 - y * y if squash == "tanh" else torch.exp(-u * u) * (2 / math.sqrt(math.pi)))
    if weight is not None:
        slope = slope * along_channels(weight.to(wide), x.ndim, channel_axis)

    def sum_per_channel(values: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return grad.new_empty(0)
        if axes := reduced_axes(x.ndim, parameter.ndim, channel_axis):
            values = values.sum(axes)
        return values.to(parameter.dtype, copy=True)  # operators must not return an input's alias

    def sum_all(values: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return grad.new_empty(0)
        return values.sum().reshape(parameter.shape).to(parameter.dtype)

    return (
        (slope * wide_alpha).to(x.dtype),
        sum_all(slope * wide_x, alpha),
        sum_all(slope, shift),
        sum_per_channel(grad * y, weight),
        sum_per_channel(grad, bias),
    )


def along_channels(parameter: Tensor, ndim: int, channel_axis: int) -> Tensor:
    """Reshape a parameter to broadcast along the channels of an input with `ndim` axes."""
    if channel_axis == -1:
        return parameter
    return parameter.view([-1] + [1] * (ndim - channel_axis - 1))


def reduced_axes(ndim: int, channel_ndim: int, channel_axis: int) -> list[int]:
    """Return the axes other than channels, over which the gradients of γ and β are summed."""
    if channel_axis == -1:
        return list(range(ndim - channel_ndim))
    return [axis for axis in range(ndim) if axis != channel_axis]


def result_dtype(x: Tensor, alpha: Tensor, *parameters: Tensor | None) -> torch.dtype:
    """Return the dtype of the formula by type promotion; `parameters` are s, γ and β."""
    dtype = torch.result_type(alpha, x)
    for parameter in parameters:
        if parameter is not None and (parameter.ndim > 0 or x.ndim == 0):
            dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
