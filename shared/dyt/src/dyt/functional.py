"""Offers DyT and Derf as functions, and chooses what computes them: a kernel, or the plain formula.

The environment variables DYT_BACKEND (reference, cpu or triton) and DYT_ACCURATE (1 for the
library's tanh) are read once, when this module is imported; arguments come before them.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dyt.backends import cpu, triton
from dyt.backends.reference import formula

BACKENDS = ("reference", "cpu", "triton")
KERNELS = ("tanh", "erf")  # what these have

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
    and the parameters alone. What no kernel takes is computed by the formula: float64, tensors
    under torch.func's transforms such as vmap or under forward-mode differentiation, nested and
    sparse tensors, DTensor, and what is exported to ONNX.

    Programs that torch.export or torch.jit.trace saved call the kernels' operator: where they are
    loaded, `import dyt.functional` has to come first.

    Args:
        x: the input, (…, *weight.shape), or (B, C, …) with channel_axis=1.
        alpha: α, one element.
        weight: γ, or None for 1.
        bias: β, or None for 0.
        channel_axis: -1 for channels last, or 1.
        backend: "reference" (the formula under ordinary autograd), "cpu" (the C++ kernel),
            "triton" (the GPU kernel), or None for DYT_BACKEND and, without that, for the kernel of
            x's device wherever it can run.
        accurate: True for the library's tanh, False for one that is much faster and in float32
            within 8 units in the last place of it, None for DYT_ACCURATE. The formula is always
            accurate.

    Raises:
        ValueError: tensors that do not go together, or a backend that cannot run.
    """
    check(x, alpha, None, weight, bias, channel_axis)
    alpha = _flat(alpha)
    return compute(x, alpha, None, weight, bias, "tanh", channel_axis, backend, accurate)


def derf(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    channel_axis: int = -1,
    backend: str | None = None,
    accurate: bool | None = None,
) -> Tensor:
    """γ·erf(αx + s) + β ("Stronger Normalization-Free Transformers", arXiv 2512.10938).

    As `dyt`, with `shift`, s, of one element, or None for 0.

    Raises:
        ValueError: tensors that do not go together, or a backend that cannot run.
    """
    check(x, alpha, shift, weight, bias, channel_axis)
    alpha, shift = _flat(alpha), None if shift is None else _flat(shift)
    return compute(x, alpha, shift, weight, bias, "erf", channel_axis, backend, accurate)


def compute(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
    backend: str | None = None,
    accurate: bool | None = None,
) -> Tensor:
    """What `dyt` (squash "tanh") and `derf` ("erf") do with tensors that were checked."""
    backend = _BACKEND if backend is None else backend
    if not _takes_kernel(x, (alpha, shift, weight, bias), backend):
        return formula(x, alpha, shift, weight, bias, squash, channel_axis)
    accurate = _ACCURATE if accurate is None else accurate
    if channel_axis == 1 and not x.is_contiguous():
        last = x.movedim(1, -1)
        if last.is_contiguous():  # torch.channels_last and its like
            y = _OPERATOR(last, alpha, shift, weight, bias, squash, -1, accurate)
            return y.movedim(-1, 1)
    return _OPERATOR(x, alpha, shift, weight, bias, squash, channel_axis, accurate)


def _flat(scalar: Tensor) -> Tensor:
    """One element without axes that would broadcast the result's."""
    return scalar.reshape(1) if scalar.ndim > 1 else scalar


_OPERATOR = torch.ops.dyt.dyt.default
_BACKENDS = {"cpu": cpu, "triton": triton}
# Devices, and whose kernel the operator runs there.
_BY_DEVICE = {"cpu": "triton" if triton.STANDS_IN else "cpu", "cuda": "triton"}


def _takes_kernel(x: Tensor, parameters: tuple[Tensor | None, ...], backend: str | None) -> bool:
    """This is asked in every call, and on a small input as much time goes here as in the kernel."""
    if backend == "reference" or not isinstance(x, Tensor):  # such as a symbol of torch.fx
        return False
    device = x.device
    if backend is not None:
        _check_backend(backend, device.type)
    elif device.type != "meta":
        name = _BY_DEVICE.get(device.type)
        if name is None or _BACKENDS[name].PROBLEM is not None:
            return False
    if x.ndim == 0 or x.layout is not torch.strided or x.dtype not in cpu.DTYPES:
        return False
    for parameter in parameters:
        if parameter is not None and (
            parameter.dtype not in cpu.DTYPES or parameter.device != device
        ):
            return False
    return not _is_transformed(x)


def _is_transformed(x: Tensor) -> bool:
    """Whether something looks on that knows plain operations alone."""
    if under_transform():
        return True
    # Asking after ONNX takes long, so it is asked only where something is traced at all.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if traced and torch.onnx.is_in_onnx_export():
        return True
    if type(x) is Tensor:
        return False
    # DTensor knows how plain operations are sharded. It costs seconds to import where unused.
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(x, distributed.DTensor)


def under_transform() -> bool:
    """Whether a transform of torch.func such as vmap is at work, or forward-mode differentiation.

    With these neither an operator's rule for autograd goes together, nor hooks on saved tensors.
    """
    if _UNTRACEABLE and torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


# torch.compile cannot trace that question before torch 2.6.
_UNTRACEABLE = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


def _check_backend(backend: str, device: str) -> None:
    """Raise ValueError unless this backend can compute what lies on such a device."""
    if backend not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"backend = {backend!r} is unknown. Use {known}, or None for the fastest.")
    kernel = _BACKENDS[backend]
    if kernel.PROBLEM is not None:
        raise ValueError(
            f"backend = {backend!r} cannot run: {kernel.PROBLEM}. {kernel.REMEDY};"
            " or use backend='reference'."
        )
    if device != "meta" and _BY_DEVICE.get(device) != backend:
        place = {"cpu": "the CPU", "triton": "a CUDA device"}[backend]
        raise ValueError(
            f"backend = {backend!r} cannot run: x is on {device!r}. Move x and the parameters to"
            f" {place}, or use backend='reference'."
        )


def check(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    channel_axis: int,
) -> None:
    """Raise ValueError unless these tensors go together."""
    if channel_axis not in (-1, 1):
        raise ValueError(
            f"channel_axis = {channel_axis!r} is not supported: use -1 (channels last) or 1."
        )
    for name, scalar, symbol in (("alpha", alpha, "α"), ("shift", shift, "s")):
        if scalar is not None and scalar.numel() != 1:
            raise ValueError(
                f"{name} has {scalar.numel()} elements, shape {tuple(scalar.shape)}, but there is"
                f" one {symbol}."
            )
    device = x.device
    named = (("alpha", alpha), ("shift", shift), ("weight", weight), ("bias", bias))
    for name, tensor in (("x", x), *named):
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
