"""DyT and Derf as functions, and the choice of the backend: a kernel or the plain formula.

The environment variables DYT_BACKEND (reference, cpu or triton) and DYT_ACCURATE (1 for the
library's tanh and erf) are read once, when this module is imported. Arguments take precedence.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dyt.backends import cpu, triton, triton_direct
from dyt.backends.reference import formula

BACKENDS = ("reference", "cpu", "triton")
KERNEL_SQUASHES = ("tanh", "erf")  # the functions that the kernels support

_DEFAULT_BACKEND = os.environ.get("DYT_BACKEND") or None
_DEFAULT_ACCURATE = os.environ.get("DYT_ACCURATE", "0") not in ("", "0")


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
    """Compute γ·tanh(αx) + β element by element; the dtype follows type promotion.

    A kernel computes in float32 for all input and output dtypes, and saves only the input and the
    parameters for backward. The formula computes what the kernels do not support: float64, tensors
    under torch.func's transforms such as vmap or under forward-mode differentiation, nested and
    sparse tensors, DTensor, and export to ONNX.

    Programs saved by torch.export or torch.jit.trace call the kernels' operator: run
    `import dyt.functional` before loading them.

    Args:
        x: the input, (…, *weight.shape), or (B, C, …) with channel_axis=1.
        alpha: α, with one element.
        weight: γ, or None for 1.
        bias: β, or None for 0.
        channel_axis: -1 for channels last, or 1.
        backend: "reference" (the formula under ordinary autograd), "cpu" (the C++ kernel),
            "triton" (the GPU kernel), or None for DYT_BACKEND or, if that is not set, the kernel
            of x's device where it can run and the formula elsewhere.
        accurate: True for the library's tanh, False for a much faster one that is within 8 units
            in the last place in float32, None for DYT_ACCURATE. The formula is always accurate.

    Raises:
        ValueError: tensors of incompatible shapes, dtypes or devices, or a backend that cannot
            run.
    """
    check_tensors(x, alpha, None, weight, bias, channel_axis)
    alpha = _drop_axes(alpha)
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
    """Compute γ·erf(αx + s) + β ("Stronger Normalization-Free Transformers", arXiv 2512.10938).

    Same as `dyt`, with an additional `shift`, s, with one element, or None for 0.

    Raises:
        ValueError: tensors of incompatible shapes, dtypes or devices, or a backend that cannot
            run.
    """
    check_tensors(x, alpha, shift, weight, bias, channel_axis)
    alpha, shift = _drop_axes(alpha), None if shift is None else _drop_axes(shift)
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
    """Compute `dyt` (squash "tanh") or `derf` ("erf") on tensors that were already checked."""
    backend = _DEFAULT_BACKEND if backend is None else backend
    accurate = _DEFAULT_ACCURATE if accurate is None else accurate
    if (
        triton_direct.can_call(x)
        and (backend is None or backend == "triton")
        and (channel_axis == -1 or x.is_contiguous())
    ):
        y = triton_direct.call(x, alpha, shift, weight, bias, (squash, channel_axis, accurate))
        if y is not None:
            return y
    if not _uses_kernel(x, (alpha, shift, weight, bias), backend):
        return formula(x, alpha, shift, weight, bias, squash, channel_axis)
    if channel_axis == 1 and not x.is_contiguous():
        channels_last = x.movedim(1, -1)
        if channels_last.is_contiguous():  # torch.channels_last, or the same for other ranks
            y = _OPERATOR(channels_last, alpha, shift, weight, bias, squash, -1, accurate)
            return y.movedim(-1, 1)
    return _OPERATOR(x, alpha, shift, weight, bias, squash, channel_axis, accurate)


def _drop_axes(scalar: Tensor) -> Tensor:
    """Reshape a one-element tensor to 1-D if it has more axes, which would broadcast the result."""
    return scalar.reshape(1) if scalar.ndim > 1 else scalar


_OPERATOR = torch.ops.dyt.dyt.default
_KERNEL_MODULES = {"cpu": cpu, "triton": triton}
# The backend whose kernel the operator runs on each device type.
_KERNEL_OF_DEVICE = {"cpu": "triton" if triton.REPLACES_CPU_KERNEL else "cpu", "cuda": "triton"}


def _uses_kernel(x: Tensor, parameters: tuple[Tensor | None, ...], backend: str | None) -> bool:
    """True if a kernel computes the result, False if the formula does.

    This runs in every call, and on a small input it takes as long as the kernel.
    """
    if backend == "reference" or not isinstance(x, Tensor):  # for example a proxy of torch.fx
        return False
    device = x.device
    if backend is not None:
        _check_backend(backend, device.type)
    elif device.type != "meta":
        name = _KERNEL_OF_DEVICE.get(device.type)
        if name is None or _KERNEL_MODULES[name].PROBLEM is not None:
            if name == "cpu" and not torch.compiler.is_compiling():
                _warn_without_cpu_kernel()
            return False
    if x.ndim == 0 or x.layout is not torch.strided or x.dtype not in cpu.DTYPES:
        return False
    for parameter in parameters:
        if parameter is not None and (
            parameter.dtype not in cpu.DTYPES or parameter.device != device
        ):
            return False
    return not _requires_plain_operations(x)


@cache
def _warn_without_cpu_kernel() -> None:
    """Warn once per process that DyT is slow on this CPU, and name the command that helps."""
    warnings.warn(
        f"DyT runs on the CPU without its kernel, several times slower: {cpu.PROBLEM}."
        f" {cpu.REMEDY}. DYT_BACKEND=reference silences this warning.",
        stacklevel=2,
    )


def _requires_plain_operations(x: Tensor) -> bool:
    """True if a tracer, transform or tensor subclass that supports only standard ops is active."""
    if under_transform():
        return True
    # is_in_onnx_export() is slow, so it is called only while something is being traced.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if traced and torch.onnx.is_in_onnx_export():
        return True
    if type(x) is Tensor:
        return False
    # DTensor has sharding rules for standard ops only. Its import takes seconds, hence sys.modules.
    names = ("torch.distributed.tensor", "torch.distributed._tensor")  # the second: torch 2.4
    kinds = (getattr(sys.modules.get(name), "DTensor", None) for name in names)
    return any(kind is not None and isinstance(x, kind) for kind in kinds)


def under_transform() -> bool:
    """True if a transform of torch.func, such as vmap, or forward-mode differentiation is active.

    These support neither an operator's autograd rule nor hooks on saved tensors.
    """
    if _TRANSFORM_CHECK_UNTRACEABLE and torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


# torch.compile cannot trace the check in under_transform() before torch 2.6.
_TRANSFORM_CHECK_UNTRACEABLE = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


def _check_backend(backend: str, device: str) -> None:
    """Raise ValueError unless this backend can compute on tensors of this device type."""
    if backend not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"backend = {backend!r} is unknown. Use {known}, or None for the default.")
    kernel = _KERNEL_MODULES[backend]
    if kernel.PROBLEM is not None:
        raise ValueError(
            f"backend = {backend!r} cannot run: {kernel.PROBLEM}. {kernel.REMEDY},"
            " or use backend='reference'."
        )
    if device != "meta" and _KERNEL_OF_DEVICE.get(device) != backend:
        supported = {"cpu": "the CPU", "triton": "a CUDA device"}[backend]
        raise ValueError(
            f"backend = {backend!r} cannot run: x is on {device!r}. Move x and the parameters to"
            f" {supported}, or use backend='reference'."
        )


def check_tensors(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    channel_axis: int,
) -> None:
    """Raise ValueError unless shapes, dtypes and devices of the tensors are compatible."""
    if channel_axis not in (-1, 1):
        raise ValueError(
            f"channel_axis = {channel_axis!r} is not supported. Use -1 (channels last) or 1."
        )
    for name, scalar, symbol in (("alpha", alpha, "α"), ("shift", shift, "s")):
        if scalar is not None and scalar.numel() != 1:
            raise ValueError(
                f"{name} has {scalar.numel()} elements and shape {tuple(scalar.shape)}, but"
                f" {symbol} is a single number."
            )
    device = x.device
    named = (("alpha", alpha), ("shift", shift), ("weight", weight), ("bias", bias))
    for name, tensor in (("x", x), *named):
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{name} has dtype {tensor.dtype}, but DyT takes real floating-point numbers."
                f" Convert it first, as with {name}.float()."
            )
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but x is on {device}. Move both to one device."
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
        position = "at axis 1" if channel_axis == 1 else "last"
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which does not match the channels ({position}) of an"
            f" x of shape {tuple(x.shape)}."
        )
