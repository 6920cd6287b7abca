"""Launch and registration of the GPU kernels; `PROBLEM` if they cannot run.

Importing this module is cheap: Triton, which is only available on Linux, is imported by the first
launch. Results are bitwise reproducible on a device: the order of all sums is fixed, and nothing is
autotuned.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from dyt.backends import ops
from dyt.backends.reference import result_dtype
from dyt.backends.triton_plan import (
    PROGRAMS,
    PROGRAMS_BACKWARD,
    STEPS,
    STEPS_BACKWARD,
    Launch,
    plan_launch,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python, on the CPU
REMEDY = "Use Linux, an NVIDIA GPU, and a CUDA build of torch 2.8 or newer with its own Triton"
MINIMUM_TRITON = (3, 4)

_FINAL_TILE = (128, 32)  # partial sums and channels


def _problem() -> str | None:
    """Return the reason why the kernels cannot run, or None if they can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if tuple(map(int, version("triton").split(".")[:2])) < MINIMUM_TRITON:
        return f"Triton {version('triton')} is older than 3.4, which comes with torch 2.8"
    if INTERPRETED:
        return None
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    # Not is_available(), which may initialize CUDA and make it unusable in later forked processes.
    return None if torch.cuda.device_count() else "no CUDA device was found"


PROBLEM = _problem()
# If true, the operator runs the GPU kernels on CPU tensors, to test the code around them.
REPLACES_CPU_KERNEL = INTERPRETED and PROBLEM is None and os.environ.get("DYT_BACKEND") == "triton"


def forward(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> Tensor:
    """Implement the operator dyt::dyt: γ·squash(αx + s) + β."""
    y = x.new_empty(x.shape, dtype=result_dtype(x, alpha, shift, weight, bias))
    if x.numel() == 0:
        return y
    method = _method(squash, y.dtype, accurate)
    parameter = weight if bias is None else bias
    size = max(x.itemsize, y.itemsize)
    (x,), launch = _plan((x,), parameter, channel_axis, size, STEPS, PROGRAMS)
    with torch.cuda.device_of(x):
        _kernels().forward[launch.grid](
            x,
            alpha,
            shift,
            None if weight is None else weight.contiguous(),
            None if bias is None else bias.contiguous(),
            y,
            *launch.numbers,
            METHOD=method,
            **launch.constants,
        )
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> tuple[Tensor, ...]:
    """Implement the operator dyt::dyt_backward: the gradients of x, α, s, γ and β.

    The first launch computes dx and, in each program, sums over its part of the input; the second
    launch adds up these partial sums.
    """
    parameters = (alpha, shift, weight, bias)
    if x.numel() == 0:
        return x.new_empty(x.shape), *(
            x.new_empty(0, dtype=torch.float32) if p is None else p.new_zeros(p.shape)
            for p in parameters
        )
    dx = x.new_empty(x.shape)
    method = _method(squash, grad.dtype, accurate)
    parameter, size = weight if bias is None else bias, max(x.itemsize, grad.itemsize)
    (x, grad), launch = _plan(
        (x, grad), parameter, channel_axis, size, STEPS_BACKWARD[method], PROGRAMS_BACKWARD
    )
    blocks, groups = launch.grid
    sums = x.new_empty(2 * groups * (launch.channels + blocks), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _kernels().backward[launch.grid](
            grad,
            x,
            alpha,
            shift,
            None if weight is None else weight.contiguous(),
            dx,
            sums,
            *launch.numbers,
            METHOD=method,
            BIAS=bias is not None,
            **launch.constants,
        )
        grads = [None if p is None else p.new_empty(p.shape) for p in parameters]
        rows, columns = _FINAL_TILE
        _kernels().add_partial_sums[-(-launch.channels // columns), 3](
            sums, *grads, groups, launch.channels, blocks * groups, ROWS=rows, COLUMNS=columns
        )
    return dx, *(sums.new_empty(0) if g is None else g for g in grads)


def _plan(
    tensors: tuple[Tensor, ...],
    parameter: Tensor | None,
    channel_axis: int,
    size: int,
    steps: int,
    programs: int,
) -> tuple[tuple[Tensor, ...], Launch]:
    """Return the tensors and their launch; tensors with unsupported strides are copied first."""
    x, channel_ndim = tensors[0], None if parameter is None else parameter.ndim
    strides = tuple(t.stride() for t in tensors)
    concurrent = programs * _multiprocessors(x.get_device())
    launch = plan_launch(x.shape, strides, channel_ndim, channel_axis, size, steps, concurrent)
    if launch is None:
        copies = tuple(t.contiguous() for t in tensors)
        return _plan(copies, parameter, channel_axis, size, steps, programs)
    return tensors, launch


@cache
def _kernels() -> ModuleType:
    return import_module("dyt.backends.triton_kernels")


@cache
def _multiprocessors(device: int) -> int:
    if device < 0:  # the interpreter, on the CPU
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _method(squash: str, dtype: torch.dtype, accurate: bool) -> str:
    """Return the method that computes the function.

    Fast approximations are used only for bfloat16, whose rounding exceeds their error. The slope
    near ±1, 1 − tanh², then has an error of at most 2⁻¹⁰; computed from a tanh that was rounded to
    bfloat16, as plain operations save it for backward, the error is 2⁻⁸.
    """
    fast = dtype == torch.bfloat16 and not accurate
    if squash == "erf":
        return "polynomial" if fast else "erf"
    if _kernels().INTERPRETED:  # the interpreter has neither libdevice nor inline assembly
        return "rational"
    if accurate:
        return "library"
    return "approximate" if fast else "rational"


if PROBLEM is None:
    for device in ("CUDA", "CPU") if REPLACES_CPU_KERNEL else ("CUDA",):
        ops.library.impl("dyt", forward, device)
        ops.library.impl("dyt_backward", backward, device)
