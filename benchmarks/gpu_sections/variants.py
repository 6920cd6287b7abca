"""Times of the kernels' variants, and of the residual addition with the norm.

Forward and backward pass of every variant of `triton_tuning.VARIANTS` at several numbers of rows of
width 4096 in bf16, in turn, against the copy of the same bytes. A layer without statistics can be
fused with the addition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt.backends import triton
from dyt.backends.triton_tuning import VARIANTS, Tuning
from dyt.functional import dyt
from gpu_sections import Part, Row, timing

WIDTH = {"cuda": 4096, "cpu": 64}
ROWS = {"cuda": (4096, 256, 32768, 1024, 16384), "cpu": (8,)}
ROUNDS = {"cuda": 61, "cpu": 1}
COPY = "copy (lower bound)"


def parts(device: str) -> list[Part]:
    kernels = [
        Part(name=f"{direction}, {rows} rows", measure=partial(times, device, direction, rows))
        for rows in ROWS[device]
        for direction in ("forward", "backward")
    ]
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    fusions = [
        Part(name=f"residual, {mode}", measure=partial(residual, device, mode)) for mode in modes
    ]
    return [*kernels[:2], *fusions, *kernels[2:]]


def row(what: str, rows: int, name: str, values: list[float], lowest: list[float]) -> Row:
    """Return a row: µs, and the ratio to the copy of the same bytes."""
    ratios = [a / b for a, b in zip(values, lowest, strict=True)]
    head: Row = {"what": what, "rows": rows, "variant": name}
    head |= timing.statistics("us", values)
    return head | timing.statistics("ratio_to_copy", ratios, "{:.3f}")


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
    calls[COPY] = x.clone if direction == "forward" else partial(torch.add, x, grad)
    found = timing.microseconds(calls, device, ROUNDS[device])
    return [row(direction, rows, name, values, found[COPY]) for name, values in found.items()]


def _switched(tuned: Tuning, run: Callable[[], object]) -> timing.Call:
    def call() -> None:
        with triton.use_tuning(tuned):
            run()

    return call


def residual(device: str, mode: str) -> list[Row]:
    """Return times of h = x + y followed by the norm of h, which returns both, and of its backward.

    "formula": one graph, in which the compiler may fuse the addition with the norm.
    """
    x, grad, (alpha, _, weight, bias) = arguments(device, ROWS[device][0])
    y, width = torch.randn_like(x), x.shape[-1]
    assert alpha is not None and weight is not None

    def formula(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, dyt(h, alpha, weight, bias, backend="reference")

    def kernel(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, dyt(h, alpha, weight, bias, backend="triton")

    def rms_norm(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, F.rms_norm(h, (width,), weight, 1e-5)

    functions = {"DyT, formula": formula, "DyT, kernel": kernel, "RMSNorm": rms_norm}
    if mode == "compiled":
        torch.compiler.reset()
        functions = {
            name: torch.compile(function, fullgraph=True, dynamic=False)
            for name, function in functions.items()
        }
    rows: list[Row] = []
    for pass_ in ("forward", "forward and backward"):
        calls: dict[str, timing.Call] = {
            name: partial(_pass, function, x, y, grad, pass_)
            for name, function in functions.items()
        }
        # The lowest cost: two tensors read and two written, and as much backward.
        calls[COPY] = partial(_copies, x, y, 1) if pass_ == "forward" else partial(_copies, x, y, 2)
        found = timing.microseconds(calls, device, ROUNDS[device])
        what = f"residual and norm, {mode}, {pass_}"
        rows += [row(what, len(x), name, values, found[COPY]) for name, values in found.items()]
    return rows


def _copies(x: Tensor, y: Tensor, times: int) -> None:
    for _ in range(times):
        x.clone()
        y.clone()


def _pass(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    grad: Tensor,
    pass_: str,
) -> None:
    if pass_ == "forward":
        with torch.no_grad():
            function(x, y)
        return
    leaves = [t.detach().requires_grad_() for t in (x, y)]
    torch.autograd.grad(function(*leaves), leaves, (grad, grad))
