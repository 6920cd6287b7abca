"""Times of the kernels' variants; the fusions, in `fusions`, are parts of the section.

Forward and backward pass of every variant of `triton_tuning.VARIANTS` at several numbers of rows of
width 4096 in bf16, in turn, against the copy of the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dyt.backends import triton
from dyt.backends.triton_tuning import VARIANTS, Tuning
from gpu_sections import Part, Row, fusions, timing

WIDTH = {"cuda": 4096, "cpu": 64}
ROWS = {"cuda": (4096, 256, 32768, 1024, 16384), "cpu": (8,)}


def parts(device: str) -> list[Part]:
    kernels = [
        Part(name=f"{direction}, {rows} rows", measure=partial(times, device, direction, rows))
        for rows in ROWS[device]
        for direction in ("forward", "backward")
    ]
    return [*kernels[:2], *fusions.parts(device), *kernels[2:]]


def arguments(device: str, rows: int) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Return input, gradient of the output, and α, s, γ and β, all in bf16."""
    width = WIDTH[device]
    x, grad = (torch.randn(rows, width, device=device).bfloat16() for _ in range(2))
    ones = torch.ones(width, device=device).bfloat16()
    return x, grad, (torch.full((1,), 0.5, device=device).bfloat16(), None, ones, ones.clone())


def times(device: str, direction: str, rows: int) -> list[Row]:
    """Return a row for each variant and the copy."""
    x, grad, parameters = arguments(device, rows)
    options = ("tanh", -1, False)
    calls: dict[str, timing.Call] = {}
    for name, variant in VARIANTS.items():
        if direction == "forward":
            run = partial(triton.forward, x, *parameters, *options)
        else:
            run = partial(triton.backward, grad, x, *parameters, *options)
        calls[name] = _switched(variant, run)
    calls[fusions.COPY] = x.clone if direction == "forward" else partial(torch.add, x, grad)
    return fusions.time_calls(direction, device, rows, calls, fusions.COPY)


def _switched(tuned: Tuning, run: Callable[[], object]) -> timing.Call:
    def call() -> None:
        with triton.use_tuning(tuned):
            run()

    return call
