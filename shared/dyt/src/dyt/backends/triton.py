"""Launch and registration of the GPU kernels; `PROBLEM` if they cannot run.

Importing this module is cheap: Triton, which is only available on Linux, is imported by the first
launch. Results are bitwise reproducible on a device: the order of all sums is fixed, and nothing is
autotuned.

Everything that follows from shapes, strides, dtypes and devices is computed once for them and
cached: a small layer takes as long as the Python code of its launch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor

from dyt.backends import ops
from dyt.backends.triton_choice import make_backward, make_forward
from dyt.backends.triton_launch import Backward, Forward, Options
from dyt.backends.triton_tuning import Tuning

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python, on the CPU
REMEDY = "Use Linux, an NVIDIA GPU, and a CUDA build of torch 2.8 or newer with its own Triton"
MINIMUM_TRITON = (3, 4)

_CACHED = 4096  # launches; networks have a few shapes, or one for each length of a sequence


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
    options = (squash, channel_axis, accurate)
    chosen = choose_forward(x, alpha, shift, weight, bias, options)
    return run_forward(chosen, x, alpha, shift, weight, bias)


def choose_forward(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    options: Options,
) -> Forward:
    """Return what a forward pass of tensors like these needs."""
    return _find_forward(
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        (alpha.dtype, alpha.ndim, True, type(alpha), alpha.get_device()),
        None if shift is None else (shift.dtype, shift.ndim, True, type(shift), shift.get_device()),
        None
        if weight is None
        else (
            weight.dtype,
            weight.ndim,
            weight.is_contiguous(),
            type(weight),
            weight.get_device(),
        ),
        None
        if bias is None
        else (bias.dtype, bias.ndim, bias.is_contiguous(), type(bias), bias.get_device()),
        options,
    )


def run_forward(
    chosen: Forward,
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Compute γ·squash(αx + s) + β as `choose_forward` has chosen for these tensors."""
    if chosen.is_dense:
        y = torch.empty_like(x, dtype=chosen.dtype)
    else:
        y = x.new_empty(x.shape, dtype=chosen.dtype)
    if chosen.launch is None:
        return y
    if chosen.copies_input:
        x = x.contiguous()
    if chosen.copies_parameters:
        weight, bias = _contiguous(weight), _contiguous(bias)
    addresses = x.data_ptr() | y.data_ptr()
    if weight is not None:
        addresses |= weight.data_ptr()
    if bias is not None:
        addresses |= bias.data_ptr()
    if chosen.guards_device:
        with torch.cuda.device_of(x):
            chosen.launch(addresses, x, alpha, shift, weight, bias, y)
    else:
        chosen.launch(addresses, x, alpha, shift, weight, bias, y)
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
    grads = compute_gradients(grad, x, alpha, shift, weight, bias, (squash, channel_axis, accurate))
    return tuple(x.new_empty(0, dtype=torch.float32) if g is None else g for g in grads)


def compute_gradients(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, α, s, γ and β; None for an absent parameter."""
    device = x.get_device()
    chosen = _find_backward(
        x.shape,
        x.stride(),
        grad.stride(),
        x.dtype,
        grad.dtype,
        device,
        (alpha.dtype, None if shift is None else shift.dtype),
        None
        if weight is None
        else (weight.dtype, weight.ndim, weight.is_contiguous(), Tensor, device),
        None if bias is None else (bias.dtype, bias.ndim, True, Tensor, device),
        options,
    )
    parameters = (alpha, shift, weight, bias)
    if chosen.launch is None:
        zeros = (None if p is None else p.new_zeros(p.shape) for p in parameters)
        return x.new_empty(x.shape), *zeros
    dx = torch.empty_like(x) if chosen.is_dense else x.new_empty(x.shape)
    grads = [None if p is None else _empty_like(p) for p in parameters]
    sums = x.new_empty(chosen.partial_sums, dtype=torch.float32)
    if chosen.copies_input:
        x, grad = x.contiguous(), grad.contiguous()
    if chosen.copies_weight:
        weight = _contiguous(weight)
    addresses = x.data_ptr() | grad.data_ptr() | dx.data_ptr() | sums.data_ptr()
    if weight is not None:
        addresses |= weight.data_ptr()
    assert chosen.add_partial_sums is not None
    if chosen.guards_device:
        with torch.cuda.device_of(x):
            chosen.launch(addresses, grad, x, alpha, shift, weight, dx, sums)
            chosen.add_partial_sums(0, sums, *grads)
    else:
        chosen.launch(addresses, grad, x, alpha, shift, weight, dx, sums)
        chosen.add_partial_sums(0, sums, *grads)
    return dx, *grads


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _empty_like(parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)


@cache
def _caches(tuned: Tuning) -> tuple[Callable[..., Forward], Callable[..., Backward]]:
    """Return the cached choices of launches of one tuning."""
    forwards = lru_cache(_CACHED)(partial(make_forward, tuned))
    return forwards, lru_cache(_CACHED)(partial(make_backward, tuned))


_find_forward, _find_backward = _caches(Tuning())


@contextmanager
def use_tuning(tuned: Tuning) -> Iterator[None]:
    """Launch with another tuning. For measurements only: it is not safe with several threads."""
    global _find_forward, _find_backward
    previous = _find_forward, _find_backward
    _find_forward, _find_backward = _caches(tuned)
    try:
        yield
    finally:
        _find_forward, _find_backward = previous


if PROBLEM is None:
    for device in ("CUDA", "CPU") if REPLACES_CPU_KERNEL else ("CUDA",):
        ops.library.impl("dyt", forward, device)
        ops.library.impl("dyt_backward", backward, device)
