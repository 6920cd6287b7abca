"""Launches the GPU kernels, and says why they may not run.

Importing this module costs nothing. Triton, which exists for Linux alone, is imported by the first
launch. Results are the same bits whenever a device computes the same again: nothing is added up in
an order that can change, and nothing is tuned by timing.
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
    plan,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python, on the CPU
REMEDY = "Use Linux, an NVIDIA GPU, and torch 2.8 or newer for CUDA, with the Triton it comes with"
OLDEST = (3, 4)

_FINAL_TILE = (128, 32)  # partial sums and channels


def _problem() -> str | None:
    """None if the kernels can run, else what keeps them from it."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if tuple(map(int, version("triton").split(".")[:2])) < OLDEST:
        return f"Triton {version('triton')} is older than 3.4, which comes with torch 2.8"
    if INTERPRETED:
        return None
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    # Not is_available(), which may initialise CUDA: a process that forked later could not use it.
    return None if torch.cuda.device_count() else "no CUDA device was found"


PROBLEM = _problem()
# The operator itself then runs the kernels on the CPU, to try out there what else belongs to a GPU.
STANDS_IN = INTERPRETED and PROBLEM is None and os.environ.get("DYT_BACKEND") == "triton"


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
    """γ·squash(αx + s) + β, as the operator dyt::dyt defines it."""
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
    """The gradients of x, α, s, γ and β, as the operator dyt::dyt_backward defines them.

    One launch for dx and, by each program, sums over its share; a second one adds these up.
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
        found = [None if p is None else p.new_empty(p.shape) for p in parameters]
        rows, columns = _FINAL_TILE
        _kernels().finalise[-(-launch.channels // columns), 3](
            sums, *found, groups, launch.channels, blocks * groups, ROWS=rows, COLUMNS=columns
        )
    return dx, *(sums.new_empty(0) if f is None else f for f in found)


def _plan(
    tensors: tuple[Tensor, ...],
    parameter: Tensor | None,
    channel_axis: int,
    size: int,
    steps: int,
    programs: int,
) -> tuple[tuple[Tensor, ...], Launch]:
    """A launch for tensors of one shape, and these: copied if it cannot read them as they are."""
    x, axes = tensors[0], None if parameter is None else parameter.ndim
    strides = tuple(t.stride() for t in tensors)
    at_once = programs * _processors(x.get_device())
    launch = plan(x.shape, strides, axes, channel_axis, size, steps, at_once)
    if launch is None:
        copies = tuple(t.contiguous() for t in tensors)
        return _plan(copies, parameter, channel_axis, size, steps, programs)
    return tensors, launch


@cache
def _kernels() -> ModuleType:
    return import_module("dyt.backends.triton_kernels")


@cache
def _processors(device: int) -> int:
    if device < 0:  # the interpreter, on the CPU
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _method(squash: str, dtype: torch.dtype, accurate: bool) -> str:
    """How the function is computed. Only bfloat16 hides what a quick approximation is off by.

    Its slope near ±1, 1 − tanh², is then off by 2⁻¹⁰ at most; from a tanh that was rounded to
    bfloat16, as plain operations keep it for backward, by 2⁻⁸.
    """
    quick = dtype == torch.bfloat16 and not accurate
    if squash == "erf":
        return "polynomial" if quick else "erf"
    if _kernels().INTERPRETED:  # it knows neither the library nor single instructions
        return "fraction"
    if accurate:
        return "library"
    return "approximate" if quick else "fraction"


if PROBLEM is None:
    for device in ("CUDA", "CPU") if STANDS_IN else ("CUDA",):
        ops.library.impl("dyt", forward, device)
        ops.library.impl("dyt_backward", backward, device)
