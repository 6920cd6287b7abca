"""Offers DyT as a function, and chooses what computes it: a kernel, or the plain formula.

The environment variables DYT_BACKEND (reference or cpu) and DYT_ACCURATE (1 for the library's tanh)
are read once, when this module is imported; arguments come before them.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from dyt.backends import cpu
from dyt.backends.reference import formula

BACKENDS = ("reference", "cpu")

_BACKEND = os.environ.get("DYT_BACKEND") or None
_ACCURATE = os.environ.get("DYT_ACCURATE", "0") not in ("", "0")


def dyt(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    channel_axis: int = -1,
    backend: str | None = None,
    accurate: bool | None = None,
) -> Tensor:
    """γ·tanh(αx) + β, element by element, with the dtype that type promotion gives.

    A kernel computes in float32, whatever it reads and writes, and keeps for backward the input
    and the parameters alone. What no kernel takes, float64 and tensors under torch.func's
    transforms such as vmap, is computed by the formula.

    Args:
        x: the input, (…, *weight.shape), or (B, C, …) with channel_axis=1.
        alpha: α, one element.
        weight: γ, or None for 1.
        bias: β, or None for 0.
        channel_axis: -1 for channels last, or 1.
        backend: "reference" (the formula under ordinary autograd), "cpu" (the C++ kernel), or None
            for DYT_BACKEND and, without that, for the kernel wherever it can run.
        accurate: True for the library's tanh, False for a rational function within 7 units in the
            last place of it and much faster, None for DYT_ACCURATE. The formula is always accurate.

    Raises:
        ValueError: tensors that do not go together, or a backend that cannot run.
    """
    _check(x, alpha, weight, bias, channel_axis)
    if alpha.ndim > 1:
        alpha = alpha.reshape(1)
    if not _takes_kernel(x, alpha, weight, bias, _BACKEND if backend is None else backend):
        return formula(x, alpha, weight, bias, channel_axis)
    accurate = _ACCURATE if accurate is None else accurate
    if channel_axis == 1:
        last = x.movedim(1, -1)
        if last.is_contiguous() and not x.is_contiguous():  # torch.channels_last and its like
            y = torch.ops.dyt.dyt(last, alpha, weight, bias, -1, accurate)
            return y.movedim(-1, 1)
    return torch.ops.dyt.dyt(x, alpha, weight, bias, channel_axis, accurate)


def _takes_kernel(
    x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None, backend: str | None
) -> bool:
    if backend == "reference":
        return False
    if backend not in (None, "cpu"):
        known = " or ".join(map(repr, BACKENDS))
        raise ValueError(f"backend = {backend!r} is unknown. Use {known}, or None for the fastest.")
    here = x.device.type in ("cpu", "meta")
    if backend == "cpu" and not here:
        raise ValueError(
            f"backend = 'cpu' cannot run: x is on {x.device}. Move x and the parameters to the"
            " CPU, or use backend='reference'."
        )
    if backend == "cpu" and cpu.PROBLEM is not None:
        raise ValueError(
            f"backend = 'cpu' cannot run: the kernel is missing, as {cpu.PROBLEM}. {cpu.REMEDY};"
            " or use backend='reference'."
        )
    # Autograd's rule for an operator does not go together with torch.func's transforms.
    return (
        here
        and cpu.PROBLEM is None
        and not torch._C._are_functorch_transforms_active()
        and x.ndim > 0
        and x.dtype in cpu.DTYPES
        and alpha.dtype in cpu.DTYPES
        and (weight is None or weight.dtype in cpu.DTYPES)
        and (bias is None or bias.dtype in cpu.DTYPES)
    )


def _check(
    x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None, channel_axis: int
) -> None:
    if channel_axis not in (-1, 1):
        raise ValueError(
            f"channel_axis = {channel_axis!r} is not supported: use -1 (channels last) or 1."
        )
    if alpha.numel() != 1:
        raise ValueError(
            f"alpha has {alpha.numel()} elements, shape {tuple(alpha.shape)}, but DyT takes one α."
        )
    device = x.device
    for name, tensor in (("x", x), ("alpha", alpha), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{name} has dtype {tensor.dtype}, but DyT takes real floating-point numbers:"
                f" convert it first, as with {name}.float()."
            )
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but x is on {device}: move one to the other."
            )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check_width(name, tensor, x, channel_axis)


def _check_width(name: str, parameter: Tensor, x: Tensor, channel_axis: int) -> None:
    shape = parameter.shape
    if channel_axis == 1:
        fits = len(shape) == 1 and x.ndim >= 2 and x.shape[1] == shape[0]
    else:
        fits = len(shape) > 0 and x.shape[-len(shape) :] == shape
    if not fits:
        where = "at axis 1" if channel_axis == 1 else "last"
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which are not the channels, {where}, of an x of"
            f" shape {tuple(x.shape)}."
        )
