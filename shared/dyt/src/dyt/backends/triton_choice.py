"""Choice of kernel, method and launch for a pass, by the shapes, strides and dtypes of its tensors.

Computed once for each of them and cached by `triton`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dyt.backends.triton_launch import (
    DTYPES,
    Backward,
    Forward,
    Options,
    Traits,
    dtype_of_traits,
    has_several_devices,
    is_dense,
    is_plain_parameter,
    make_launcher,
)
from dyt.backends.triton_plan import STEPS_BACKWARD, Ints, Launch, plan_launch
from dyt.backends.triton_tuning import Tuning

_FINAL_TILE = (128, 32)  # partial sums and channels


def make_forward(
    tuned: Tuning,
    shape: Ints,
    strides: Ints,
    dtype: torch.dtype,
    device: int,
    alpha: Traits,
    shift: Traits,
    weight: Traits,
    bias: Traits,
    options: Options,
) -> Forward:
    """Choose a forward pass for tensors with these shapes, strides and traits."""
    squash, channel_axis, accurate = options
    y_dtype = dtype_of_traits((dtype, len(shape), True, Tensor, device), alpha, shift, weight, bias)
    dense = is_dense(shape, strides)
    present = [p for p in (alpha, shift, weight, bias) if p is not None]
    plain = bool(shape) and dtype in DTYPES and all(is_plain_parameter(p, device) for p in present)
    if 0 in shape:
        return Forward(y_dtype, None, dense, False, False, False, plain)
    method, size = _method(tuned, squash, y_dtype, accurate), max(dtype.itemsize, y_dtype.itemsize)
    launch, copied = _plan(
        shape,
        (strides,),
        weight or bias,
        channel_axis,
        size,
        tuned.steps,
        tuned.programs,
        tuned.threads,
        device,
    )
    return Forward(
        dtype=y_dtype,
        launch=make_launcher(
            _kernels().forward, launch.grid, launch.numbers, METHOD=method, **launch.constants
        ),
        is_dense=dense,
        copies_input=copied,
        copies_parameters=not all(p[2] for p in (weight, bias) if p is not None),
        guards_device=has_several_devices(device),
        is_plain=plain,
    )


def make_backward(
    tuned: Tuning,
    shape: Ints,
    strides: Ints,
    grad_strides: Ints,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    device: int,
    scalars: tuple[torch.dtype, torch.dtype | None],
    weight: Traits,
    bias: Traits,
    options: Options,
) -> Backward:
    """Choose a backward pass, as `make_forward`.

    The dtypes of α and s are arguments for the cache only: the launchers keep kernels that are
    compiled for them.
    """
    squash, channel_axis, accurate = options
    dense = is_dense(shape, strides)
    if 0 in shape:
        return Backward(None, None, 0, dense, False, False, False)
    method = _method(tuned, squash, grad_dtype, accurate)
    size = max(dtype.itemsize, grad_dtype.itemsize)
    launch, copied = _plan(
        shape,
        (strides, grad_strides),
        weight or bias,
        channel_axis,
        size,
        tuned.steps_backward or STEPS_BACKWARD[method],
        tuned.programs_backward,
        tuned.threads,
        device,
    )
    blocks, groups = launch.grid
    constants: dict[str, Any] = {"METHOD": method, "BIAS": bias is not None, **launch.constants}
    rows, columns = _FINAL_TILE
    return Backward(
        launch=make_launcher(_kernels().backward, launch.grid, launch.numbers, **constants),
        add_partial_sums=make_launcher(
            _kernels().add_partial_sums,
            (-(-launch.channels // columns), 3),
            (groups, launch.channels, blocks * groups),
            ROWS=rows,
            COLUMNS=columns,
        ),
        partial_sums=2 * groups * (launch.channels + blocks),
        is_dense=dense,
        copies_input=copied,
        copies_weight=weight is not None and not weight[2],
        guards_device=has_several_devices(device),
    )


def _plan(
    shape: Ints,
    strides: tuple[Ints, ...],
    parameter: Traits,
    channel_axis: int,
    size: int,
    steps: int,
    programs: int,
    threads: int,
    device: int,
) -> tuple[Launch, bool]:
    """Return the launch, and True if tensors with these strides must be made contiguous first."""
    channel_ndim = None if parameter is None else parameter[1]
    concurrent = programs * _multiprocessors(device)
    rest = (channel_ndim, channel_axis, size, steps, concurrent, threads)
    launch = plan_launch(shape, strides, *rest)
    if launch is not None:
        return launch, False
    contiguous = torch.empty(shape, device="meta").stride()
    launch = plan_launch(shape, (contiguous,) * len(strides), *rest)
    assert launch is not None, "every contiguous layout is supported"
    return launch, True


@cache
def _kernels() -> ModuleType:
    return import_module("dyt.backends.triton_kernels")


@cache
def _multiprocessors(device: int) -> int:
    if device < 0:  # the interpreter, on the CPU
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _method(tuned: Tuning, squash: str, dtype: torch.dtype, accurate: bool) -> str:
    """Return the method that computes the function.

    Fast approximations are used only for bfloat16, whose rounding exceeds their error. The slope
    near ±1, 1 − tanh², then has an error of at most 2⁻¹⁰; computed from a tanh that was rounded to
    bfloat16, as plain operations save it for backward, the error is 2⁻⁸.
    """
    fast = dtype == torch.bfloat16 and not accurate
    if fast and squash == "tanh" and tuned.tanh is not None:
        return tuned.tanh
    if squash == "erf":
        return "polynomial" if fast else "erf"
    if _kernels().INTERPRETED:  # the interpreter has neither libdevice nor inline assembly
        return "rational"
    if accurate:
        return "library"
    return "approximate" if fast else "rational"
