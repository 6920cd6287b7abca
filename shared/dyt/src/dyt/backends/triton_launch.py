"""Launches of compiled GPU kernels, and the properties of tensors that determine them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyt.backends.reference import result_dtype
from dyt.backends.triton_plan import Ints

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Of a parameter: dtype, number of axes, True if it is contiguous, class, index of the device. None
# for an absent one.
Traits = tuple[torch.dtype, int, bool, type, int] | None
# The function, the channel axis, and True for the accurate function.
Options = tuple[str, int, bool]


class Forward(NamedTuple):
    """What a forward pass needs besides its tensors.

    Attributes:
        dtype: of the output.
        launch: None if there is nothing to compute.
        is_dense: True if the input is contiguous, so that torch.empty_like has the right strides.
        copies_input: True if the kernel cannot read the input's strides.
        copies_parameters: True if γ or β is not contiguous.
        guards_device: True if the current device may be another one than the input's.
        is_plain: True if all tensors are plain ones that the kernels support.
    """

    dtype: torch.dtype
    launch: Callable[..., None] | None
    is_dense: bool
    copies_input: bool
    copies_parameters: bool
    guards_device: bool
    is_plain: bool


class Backward(NamedTuple):
    """What a backward pass needs besides its tensors; see `Forward`."""

    launch: Callable[..., None] | None
    add_partial_sums: Callable[..., None] | None
    partial_sums: int
    is_dense: bool
    copies_input: bool
    copies_weight: bool
    guards_device: bool


def make_launcher(
    kernel: Any, grid: tuple[int, int], numbers: Ints, **constants: bool | int | str
) -> Callable[..., None]:
    """Return a function that launches a kernel.

    Its arguments are the bitwise or of the addresses that the kernel is specialized for, and the
    kernel's tensors. Triton's own launch derives the specialization from all arguments, which takes
    most of its time; here only the alignment can change, so that the compiled kernel is called
    directly if all addresses are aligned.
    """
    launch_any = kernel[grid]
    launch_aligned: Callable[..., None] | None = None
    values: tuple[Any, ...] = ()

    def launch(addresses: int, *tensors: Tensor | None) -> None:
        nonlocal launch_aligned, values
        if addresses & 15:
            launch_any(*tensors, *numbers, **constants)
        elif launch_aligned is not None:
            launch_aligned(*tensors, *values)
        else:
            compiled = launch_any(*tensors, *numbers, **constants)
            if compiled is not None:  # the interpreter compiles nothing
                names = kernel.arg_names[len(tensors) + len(numbers) :]
                values = (*numbers, *(constants[name] for name in names))
                launch_aligned = compiled[(*grid, 1)]

    return launch


def dtype_of_traits(x: Traits, alpha: Traits, *parameters: Traits) -> torch.dtype:
    """Return the dtype of the formula for tensors with these traits."""

    def tensor(traits: Traits) -> Tensor | None:
        if traits is None:
            return None
        dtype, ndim = traits[:2]
        return torch.empty((1,) * ndim, dtype=dtype, device="meta")

    x_like, alpha_like = tensor(x), tensor(alpha)
    assert x_like is not None and alpha_like is not None
    return result_dtype(x_like, alpha_like, *map(tensor, parameters))


def is_plain_parameter(parameter: Traits, device: int) -> bool:
    """True if the kernels support a parameter with these traits for an input on this device."""
    assert parameter is not None
    dtype, _, _, kind, index = parameter
    return kind in (Tensor, nn.Parameter) and dtype in DTYPES and index == device


def is_dense(shape: Ints, strides: Ints) -> bool:
    """True if tensors with these strides are contiguous in torch's sense."""
    return torch.empty_strided(shape, strides, device="meta").is_contiguous()


@cache
def has_several_devices(device: int) -> bool:
    """True if the device is a GPU and not the only one."""
    return device >= 0 and torch.cuda.device_count() > 1
