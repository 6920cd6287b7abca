"""Correctness on the card: kernels against float64, and what torch does around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dyt.backends import triton
from dyt.backends.reference import formula, gradients, result_dtype
from gpu_sections import Part, Row, fused_checks, integration
from gpu_sections.outcomes import check, outcome, worst_ratio

# One rounding of each result and sums of the 8 units in the last place of the rational function;
# the interpreter truncates to bfloat16 instead of rounding.
TOLERANCE = {
    torch.float32: (2e-6, 1e-5),
    torch.bfloat16: (2**-7, 1e-3),
    torch.float16: (2**-11, 2e-4),
}
FAST = (2**-7, 15 * 4 * 2**-11)  # tanh.approx and the polynomial for erf, in sums
LAYOUTS: dict[str, tuple[Callable[[], Tensor], int | None, int]] = {
    "trailing channels": (lambda: torch.randn(3, 5, 64), 64, -1),
    "odd width": (lambda: torch.randn(9, 601), 601, -1),
    "width 1": (lambda: torch.randn(7, 1), 1, -1),
    "one row": (lambda: torch.randn(70), 70, -1),
    "strided columns": (lambda: torch.randn(6, 9)[:, 1:], 8, -1),
    "strided rows": (lambda: torch.randn(4, 6, 8)[:, ::2], 8, -1),
    "transposed": (lambda: torch.randn(8, 6).t(), 8, -1),
    "channels first": (lambda: torch.randn(2, 7, 5, 3), 7, 1),
    "channels first, planes of 16": (lambda: torch.randn(2, 3, 16, 16), 3, 1),
    "some channels of an image": (lambda: torch.randn(2, 12, 4, 4)[:, 2:10], 8, 1),
    "empty": (lambda: torch.randn(0, 4), 4, -1),
    "without γ and β": (lambda: torch.randn(4, 6), None, -1),
}
ROWS = {"cuda": tuple(2**n for n in range(0, 17, 2)), "cpu": (1, 33)}
WIDTH = {"cuda": 4096, "cpu": 40}


def parts(device: str) -> list[Part]:
    kernels = [
        Part(name=f"{squash}, {name}", measure=partial(layouts, device, squash, dtype))
        for dtype, name in (
            (torch.float32, "fp32"),
            (torch.bfloat16, "bf16"),
            (torch.float16, "fp16"),
        )
        for squash in ("tanh", "erf")
    ]
    return [
        *kernels,
        Part(name="rows", measure=partial(rows, device), limit=120, gigabytes=32),
        Part(name="repeatability", measure=partial(repeatability, device)),
        *integration.parts(device),
        *fused_checks.parts(device),
    ]


def worst_error(
    x: Tensor, width: int | None, axis: int, squash: str, accurate: bool, device: str
) -> float:
    """Return the largest error of output and gradients over its tolerance, against float64.

    Raises:
        AssertionError: a shape or dtype is wrong.
    """
    dtype = x.dtype
    shift = torch.tensor([0.2]) if squash == "erf" else None
    affine = (None, None) if width is None else (1 + 0.3 * torch.randn(width), torch.randn(width))
    given = [None if p is None else p.to(dtype) for p in (torch.tensor([0.7]), shift, *affine)]
    grad = torch.randn(x.shape).to(result_dtype(x, *given))
    options = (squash, axis, accurate)
    moved = [None if t is None else _like(t, device) for t in (grad, x, *given)]
    found = [triton.forward(*moved[1:], *options), *triton.backward(*moved, *options)]
    exact_device = "cpu" if x.numel() < 2**20 else device
    wide = [None if t is None else t.to(exact_device, torch.float64) for t in (grad, x, *given)]
    exact = [formula(*wide[1:], squash, axis), *gradients(*wide, squash, axis)]
    fast = dtype == torch.bfloat16 and not accurate
    tolerance = FAST if fast else TOLERANCE[dtype]
    worst = 0.0
    for value, expected in zip(found, exact, strict=True):
        if expected.numel() == 0:
            assert value.numel() == 0, f"{tuple(value.shape)} for an empty result"
            continue
        worst = max(worst, worst_ratio(value.reshape(expected.shape), expected, tolerance))
    return worst


def _like(tensor: Tensor, device: str) -> Tensor:
    """Copy a tensor to a device, with its strides."""
    base = tensor if tensor._base is None else tensor._base
    return base.to(device, tensor.dtype).as_strided(
        tensor.shape, tensor.stride(), tensor.storage_offset()
    )


def layouts(device: str, squash: str, dtype: torch.dtype) -> list[Row]:
    """Compare every layout with float64, by the fast and by the accurate function."""
    results = []
    names = list(LAYOUTS)[:: 1 if device == "cuda" else 4]
    for name in names:
        make, width, axis = LAYOUTS[name]
        for accurate in (False, True) if device == "cuda" else (False,):
            worst = worst_error(_cast(make, dtype), width, axis, squash, accurate, device)
            results.append(check(f"{name}{', accurate' if accurate else ''}", worst))
    return results


def _cast(make: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    """Return a random tensor in a dtype, with the strides that `make` gives it."""
    x = make()
    base = x if x._base is None else x._base
    return (2 * base).to(dtype).as_strided(x.shape, x.stride(), x.storage_offset())


def rows(device: str) -> list[Row]:
    """Compare numbers of rows at one width with float64, which is computed on the card."""
    results = []
    for number in ROWS[device]:
        x = torch.randn(number, WIDTH[device]).bfloat16()
        worst = worst_error(x, WIDTH[device], -1, "tanh", False, device)
        results.append(check(f"{number} × {WIDTH[device]}, bf16", worst))
    return results


def repeatability(device: str) -> list[Row]:
    """Compare the results of equal calls bit by bit."""
    x, grad = (torch.randn(300, 96).to(device) for _ in range(2))
    given = [torch.full((1,), 0.7), None, torch.rand(96), torch.rand(96)]
    given = [None if t is None else t.to(device) for t in given]
    first, second = (
        [
            triton.forward(x, *given, "tanh", -1, False),
            *triton.backward(grad, x, *given, "tanh", -1, False),
        ]
        for _ in range(2)
    )
    equal = all(map(torch.equal, first, second))
    return [outcome("bitwise equal repetitions", equal)]
