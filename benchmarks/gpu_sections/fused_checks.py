"""Checks of the fused candidates against float64."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gpu_sections import Part, Row, fused
from gpu_sections.outcomes import check, worst_ratio

WIDTH = {"cuda": 4096, "cpu": 40}
MATRICES = {"cuda": (256, 768, 1024), "cpu": (32, 48, 64)}  # m, n and k
# One rounding to bfloat16 and tanh.approx; in the rehearsal, float32 and the rational function. The
# second number is a share of the largest value, because the sums over rows are compared with it.
TOLERANCE = {"cuda": (2**-7, 15 * 4 * 2**-11), "cpu": (2e-6, 1e-5)}
FP8_TOLERANCE = (1.02 * 2**-4, 2**-10)  # half a unit of a mantissa of 3 bits, and tanh.approx
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}


def parts(device: str) -> list[Part]:
    checks = {"residual": residual, "fp8": fp8, "matrix products": products}
    return [
        Part(name=f"fusions: {name}", measure=partial(run, device)) for name, run in checks.items()
    ]


def parameters(device: str, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return α, γ and β."""
    alpha, weight = torch.tensor([0.7]), 1 + 0.3 * torch.randn(width)
    dtype = DTYPE[device]
    return alpha.to(device, dtype), weight.to(device, dtype), _random(device, width)


def _random(device: str, *shape: int) -> Tensor:
    return torch.randn(shape).to(device, DTYPE[device])


def exact_dyt(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute DyT in float64."""
    y = weight.double() * torch.tanh(alpha.double() * x.double())
    return y if bias is None else y + bias.double()


def residual(device: str) -> list[Row]:
    """Compare the residual addition with DyT, and all gradients, with and without β."""
    rows = []
    for has_bias in (True, False):
        *given, bias = parameters(device, WIDTH[device])
        tensors = [_random(device, 33, WIDTH[device]) for _ in range(2)] + given
        tensors += [bias] if has_bias else []
        grads = [_random(device, 33, WIDTH[device]) for _ in range(2)]
        leaves = [t.clone().requires_grad_() for t in tensors]
        h, z = fused.add_dyt(*leaves, *([] if has_bias else [None]))
        found = [h, z, *torch.autograd.grad((h, z), leaves, grads)]
        wide = [t.double().requires_grad_() for t in tensors]
        total = wide[0] + wide[1]
        rounded = total + (h.detach().double() - total.detach())  # DyT is that of the rounded sum
        normed = exact_dyt(rounded, *wide[2:], *([] if has_bias else [None]))
        expected = [total, normed]
        expected += torch.autograd.grad((total, normed), wide, [g.double() for g in grads])
        worst = max(
            worst_ratio(a.detach(), b.detach(), TOLERANCE[device])
            for a, b in zip(found, expected, strict=True)
        )
        rows.append(check(f"residual addition and DyT, {'with' if has_bias else 'no'} β", worst))
    return rows


def fp8(device: str) -> list[Row]:
    """Compare DyT in fp8 with the exact one, with a scale that fits and with one that saturates.

    The interpreter rounds to fp8 incorrectly: there, the numbers before that rounding are compared.
    """
    rows = []
    x, given = 2 * _random(device, 33, WIDTH[device]), parameters(device, WIDTH[device])
    scale = fused.largest_scale(given[1], given[2])
    in_fp8 = device == "cuda"
    for name, divisor in (("fits", 1), ("saturates", 3)):
        dtype = fused.FP8 if in_fp8 else torch.float32
        found = fused.dyt_fp8(x, *given, scale / divisor, dtype)
        expected = (exact_dyt(x, *given) / (scale / divisor).double()).clamp(-448, 448)
        tolerance = FP8_TOLERANCE if in_fp8 else TOLERANCE[device]
        rows.append(
            check(f"fp8, the scale {name}", worst_ratio(found.float(), expected, tolerance))
        )
    return rows


def products(device: str) -> list[Row]:
    """Compare matrix products by every tile: plain, with DyT before, and with DyT after."""
    m, n, k = MATRICES[device]
    a, matrix, added = (_random(device, *shape) for shape in ((m, k), (n, k), (m, n)))
    matrix /= k**0.5
    alpha, weight, bias = parameters(device, k)
    folded, shift = fused.fold(matrix, weight, bias)
    _, weight_after, bias_after = parameters(device, n)
    exact = a.double() @ matrix.double().T
    before = exact_dyt(a, alpha, weight, bias) @ matrix.double().T
    rows = []
    for tile in fused.tiles():
        c, _ = fused.product(a, matrix, tile)
        rows.append(check(f"product, {tile.name}", _worst(c, exact, device)))
        for tanh in fused.tanh_before_products():
            c, _ = fused.product(a, folded, tile, alpha=alpha, bias=shift, tanh=tanh)
            name = f"DyT{' in pairs' if tanh else ''} before the product, {tile.name}"
            rows.append(check(name, _worst(c, before, device)))
        after = {"alpha": alpha, "residual": added, "weight": weight_after, "bias": bias_after}
        c, z = fused.product(a, matrix, tile, **after)
        assert z is not None
        worst = _worst(c, exact + added.double(), device)
        normed = exact_dyt(c, alpha, weight_after, bias_after)
        worst = max(worst, worst_ratio(z, normed, TOLERANCE[device]))
        rows.append(check(f"DyT after the product, {tile.name}", worst))
    return rows


def _worst(found: Tensor, expected: Tensor, device: str) -> float:
    """Return the error over the one allowed, in the Euclidean norm and of single elements.

    bfloat16 operands of a product with DyT are rounded twice: 2⁻⁸ on average over the sums.
    """
    share = 2**-7 if device == "cuda" else 1e-6
    norm = float((found.double() - expected).norm() / expected.norm())
    return max(norm / share, worst_ratio(found, expected, (share, 8 * share)))
