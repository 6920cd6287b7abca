"""Times of fusions with DyT: the residual addition, a cast to fp8, and matrix products.

A layer without statistics can be fused with whatever computes its input or reads its output. Every
fusion is measured in turn with the separate operations and with RMSNorm, each next to its floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt.functional import dyt
from gpu_sections import Part, Row, fused, timing

WIDTH = {"cuda": 4096, "cpu": 64}
ROWS = {"cuda": 4096, "cpu": 16}
FEW_ROWS = 128  # a product of so few rows takes as long as the reading of its matrix
WIDE = {"cuda": 12_288, "cpu": 64}  # the product after an attention norm
ROUNDS = {"cuda": 61, "cpu": 1}
COPY = "copy (lower bound)"
PRODUCT = "product alone (lower bound)"
Function = Callable[..., object]


def parts(device: str) -> list[Part]:
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    rows = (ROWS[device], FEW_ROWS) if device == "cuda" else (ROWS[device],)
    return [
        *(Part(name=f"residual, {m}", measure=partial(residual, device, m)) for m in modes),
        Part(name="product, then DyT", measure=partial(product_before, device)),
        *(
            Part(name=f"DyT, then product, {n} rows", measure=partial(product_after, device, n))
            for n in rows
        ),
        *(Part(name=f"fp8, {m}", measure=partial(to_fp8, device, m)) for m in modes),
    ]


def row(what: str, rows: int, name: str, values: list[float], lowest: list[float]) -> Row:
    """Return a row: µs, and the ratio to the floor."""
    ratios = [a / b for a, b in zip(values, lowest, strict=True)]
    head: Row = {"what": what, "rows": rows, "variant": name}
    head |= timing.statistics("us", values)
    return head | timing.statistics("ratio_to_floor", ratios, "{:.3f}")


def time_calls(
    what: str, device: str, rows: int, calls: dict[str, timing.Call], floor: str
) -> list[Row]:
    """Return a row for each call."""
    found = timing.microseconds(calls, device, ROUNDS[device])
    return [row(what, rows, name, values, found[floor]) for name, values in found.items()]


def random(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).bfloat16()


def parameters(device: str) -> tuple[Tensor, Tensor]:
    """Return α and γ; LLaMA's layers have no β."""
    alpha = torch.full((1,), 0.5, device=device).bfloat16()
    return alpha, torch.ones(WIDTH[device], device=device).bfloat16()


def compiled(functions: dict[str, Function], mode: str) -> dict[str, Function]:
    """Return the functions, compiled in one mode and as they are in the other, "eager"."""
    if mode == "eager":
        return functions
    torch.compiler.reset()
    return {
        name: torch.compile(function, fullgraph=True, dynamic=False)
        for name, function in functions.items()
    }


def residual(device: str, mode: str) -> list[Row]:
    """Return times of h = x + y followed by the norm of h, which returns both, and of its backward.

    Compiled, it is one graph, in which the compiler may fuse the addition with the formula.
    """
    x, y, grad_h, grad_z = (random(device, ROWS[device], WIDTH[device]) for _ in range(4))
    alpha, weight = (p.requires_grad_() for p in parameters(device))
    width = WIDTH[device]

    def formula(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, dyt(h, alpha, weight, backend="reference")

    def kernel(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, dyt(h, alpha, weight, backend="triton")

    def one_launch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return fused.add_dyt(x, y, alpha, weight, None)

    def rms_norm(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, F.rms_norm(h, (width,), weight, 1e-5)

    functions = compiled(
        {
            "DyT, formula": formula,
            "DyT, kernel": kernel,
            "DyT, kernel with the addition": one_launch,
            "RMSNorm": rms_norm,
        },
        mode,
    )
    rows: list[Row] = []
    for pass_ in ("forward", "forward and backward"):
        calls: dict[str, timing.Call] = {}
        for name, function in functions.items():
            leaves = [weight] if name == "RMSNorm" else [alpha, weight]
            calls[name] = partial(_pass, function, (x, y), (grad_h, grad_z), leaves, pass_)
        # The lowest cost: two tensors read and two written; backward, three read and one written.
        calls[COPY] = partial(_copies, x, y, 1 if pass_ == "forward" else 2)
        rows += time_calls(f"residual and norm, {mode}, {pass_}", device, len(x), calls, COPY)
    return rows


def _copies(x: Tensor, y: Tensor, times: int) -> None:
    for _ in range(times):
        x.clone()
        y.clone()


def _pass(
    function: Function,
    inputs: Iterable[Tensor],
    grads: tuple[Tensor, Tensor],
    parameters: list[Tensor],
    pass_: str,
) -> None:
    if pass_ == "forward":
        with torch.no_grad():
            function(*inputs)
        return
    leaves = [t.detach().requires_grad_() for t in inputs]
    torch.autograd.grad(function(*leaves), [*leaves, *parameters], grads)


def product_before(device: str) -> list[Row]:
    """Return times of the residual projection h = x + a·Wᵀ followed by the norm of h."""
    width = WIDTH[device]
    x, a = (random(device, ROWS[device], width) for _ in range(2))
    matrix = 0.02 * random(device, width, width)
    alpha, weight = parameters(device)

    def kernel() -> Tensor:
        return dyt(torch.addmm(x, a, matrix.t()), alpha, weight, backend="triton")

    def with_addition() -> object:
        return fused.add_dyt(x, a @ matrix.t(), alpha, weight, None)

    def rms_norm() -> Tensor:
        return F.rms_norm(torch.addmm(x, a, matrix.t()), (width,), weight, 1e-5)

    calls: dict[str, timing.Call] = {
        PRODUCT: lambda: torch.addmm(x, a, matrix.t()),
        "RMSNorm": rms_norm,
        "DyT, kernel": kernel,
        "DyT, kernel with the addition": with_addition,
    }
    after = {"alpha": alpha, "residual": x, "weight": weight}
    candidates: dict[str, timing.Call] = {}
    for tile in fused.tiles():
        product = partial(fused.product, a, matrix, tile)
        candidates[f"Triton's product alone, {tile.name}"] = product
        candidates[f"DyT in the product, {tile.name}"] = partial(product, **after)
    calls |= timing.those_that_run(candidates)
    return time_calls("residual projection, then the norm", device, len(x), calls, PRODUCT)


def product_after(device: str, rows: int) -> list[Row]:
    """Return times of the norm of h followed by the projection to queries, keys and values."""
    width = WIDTH[device]
    h, matrix = random(device, rows, width), 0.02 * random(device, WIDE[device], width)
    alpha, weight = parameters(device)
    folded, _ = fused.fold(matrix, weight, None)
    calls: dict[str, timing.Call] = {
        PRODUCT: lambda: h @ matrix.t(),
        "RMSNorm": lambda: F.rms_norm(h, (width,), weight, 1e-5) @ matrix.t(),
        "DyT, kernel": lambda: dyt(h, alpha, weight, backend="triton") @ matrix.t(),
    }
    candidates: dict[str, timing.Call] = {}
    for tile in fused.tiles():
        product = partial(fused.product, h, folded, tile)
        candidates[f"Triton's product alone, {tile.name}"] = product
        for tanh in fused.tanh_before_products():
            name = f"DyT{' in pairs' if tanh else ''} in the product, {tile.name}"
            candidates[name] = partial(product, alpha=alpha, tanh=tanh)
    calls |= timing.those_that_run(candidates)
    return time_calls("the norm, then a projection", device, rows, calls, PRODUCT)


def to_fp8(device: str, mode: str) -> list[Row]:
    """Return times of the norm followed by a cast to fp8: a scale that is given, or one per row.

    The copy is that of bfloat16: the lowest cost is three quarters of it.
    """
    x, (alpha, weight) = random(device, ROWS[device], WIDTH[device]), parameters(device)
    scale, width = fused.largest_scale(weight, None), WIDTH[device]

    def formula() -> Tensor:
        return (dyt(x, alpha, weight, backend="reference") / scale).to(fused.FP8)

    def kernel() -> Tensor:
        return (dyt(x, alpha, weight, backend="triton") / scale).to(fused.FP8)

    def rms_norm() -> Tensor:
        return (F.rms_norm(x, (width,), weight, 1e-5) / scale).to(fused.FP8)

    def rms_norm_by_row() -> tuple[Tensor, Tensor]:
        y = F.rms_norm(x, (width,), weight, 1e-5).float()
        scales = y.abs().amax(-1, keepdim=True) / torch.finfo(fused.FP8).max
        return (y / scales).to(fused.FP8), scales

    functions = {
        "DyT, formula": formula,
        "DyT, kernel": kernel,
        "RMSNorm": rms_norm,
        "RMSNorm, a scale per row": rms_norm_by_row,
    }
    calls: dict[str, timing.Call] = {
        name: _without_gradient(function) for name, function in compiled(functions, mode).items()
    }
    in_one_launch = partial(fused.dyt_fp8, x, alpha, weight, None, scale)
    calls |= timing.those_that_run({"DyT with the cast": in_one_launch})
    calls[COPY] = x.clone
    return time_calls(f"norm and cast to fp8, {mode}", device, len(x), calls, COPY)


def _without_gradient(function: Function) -> timing.Call:
    def call() -> object:
        with torch.no_grad():
            return function()

    return call
