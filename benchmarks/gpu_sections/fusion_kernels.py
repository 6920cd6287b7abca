"""GPU kernels, in Triton, of fusions that a layer without statistics allows: private candidates.

All tensors are contiguous. The elementwise kernels divide their work as `dyt.backends.triton_plan`
plans it; see `dyt.backends.triton_kernels`. A matrix product has one program for each tile of the
result.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dyt.backends import triton_kernels
from dyt.backends.triton_kernels import _aligned, _derivative, _squash, _tile

if triton_kernels.INTERPRETED:
    range = triton_kernels.range

FP8_MAX = tl.constexpr(448.0)  # of e4m3


@triton.jit(do_not_specialize=("positions", "channels"))
def add_forward(
    x,
    y,
    alpha,
    weight,
    bias,
    h,
    z,
    positions,
    channels,
    METHOD: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute h = x + y and z = γ·squash(αh) + β; z is that of the rounded h."""
    channels = _aligned(channels, ALIGNMENT, False)
    start, tile, channel = _tile(STEPS, BLOCK_P, BLOCK_C, False, False)
    a = tl.load(alpha).to(tl.float32)
    w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * BLOCK_P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = position * channels + channel
        left = tl.load(x + at, inside, 0.0).to(tl.float32)
        total = (left + tl.load(y + at, inside, 0.0).to(tl.float32)).to(h.dtype.element_ty)
        tl.store(h + at, total, inside)
        result = w * _squash(a * total.to(tl.float32), METHOD)
        if bias is not None:
            result += b
        tl.store(z + at, result, inside)


@triton.jit(do_not_specialize=("positions", "channels"))
def add_backward(
    grad_h,
    grad_z,
    h,
    alpha,
    weight,
    dx,
    sums,
    positions,
    channels,
    METHOD: tl.constexpr,
    BIAS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute the gradient of x and of y, which is the same, and each program's partial sums.

    `sums` is laid out for `triton_kernels.add_partial_sums`.
    """
    channels = _aligned(channels, ALIGNMENT, False)
    start, tile, channel = _tile(STEPS, BLOCK_P, BLOCK_C, False, False)
    a = tl.load(alpha).to(tl.float32)
    w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    dalpha = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    dweight, dbias = dalpha, dalpha
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * BLOCK_P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = position * channels + channel
        v = tl.load(h + at, inside, 0.0).to(tl.float32)
        g = tl.load(grad_z + at, inside, 0.0).to(tl.float32)
        residual = tl.load(grad_h + at, inside, 0.0).to(tl.float32)
        u = a * v
        squashed = _squash(u, METHOD)
        slope = g * _derivative(u, squashed, METHOD) * w
        dweight += tl.sum(g * squashed, 1)
        if BIAS:
            dbias += tl.sum(g, 1)
        dalpha += tl.sum(slope * v, 1)
        tl.store(dx + at, residual + slope * a, inside)

    group, groups = tl.program_id(1), tl.num_programs(1)
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = sums + group * channels + column
    tl.store(here, tl.sum(dweight, 0), column < channels)
    if BIAS:
        tl.store(here + groups * channels, tl.sum(dbias, 0), column < channels)
    here = sums + 2 * groups * channels + group * tl.num_programs(0) + tl.program_id(0)
    tl.store(here, tl.sum(dalpha))


@triton.jit(do_not_specialize=("positions", "channels"))
def cast_forward(
    x,
    alpha,
    weight,
    bias,
    scale,
    y,
    positions,
    channels,
    METHOD: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute y = (γ·squash(αx) + β) / scale within the range of fp8 (e4m3), in y's dtype."""
    channels = _aligned(channels, ALIGNMENT, False)
    start, tile, channel = _tile(STEPS, BLOCK_P, BLOCK_C, False, False)
    a, factor = tl.load(alpha).to(tl.float32), 1.0 / tl.load(scale)
    w = factor * tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    if bias is not None:
        b = factor * tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * BLOCK_P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = position * channels + channel
        result = w * _squash(a * tl.load(x + at, inside, 0.0).to(tl.float32), METHOD)
        if bias is not None:
            result += b
        result = tl.clamp(result, -FP8_MAX, FP8_MAX, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + at, result.to(y.dtype.element_ty), inside)


@triton.jit
def _squash_operand(tile, a, METHOD: tl.constexpr):
    """Return squash(αx) of a tile in its dtype, for a matrix product."""
    if METHOD == "pairs":  # an instruction for two elements; αx is rounded to bfloat16 before it
        u = (a * tile.to(tl.float32)).to(tl.bfloat16)
        result = tl.inline_asm_elementwise(
            "tanh.approx.bf16x2 $0, $1;", "=r,r", [u], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    else:
        result = _squash(a * tile.to(tl.float32), METHOD).to(tile.dtype)
    return result


@triton.jit
def matmul(
    a,
    b,
    c,
    alpha,
    residual,
    weight,
    bias,
    z,
    m,
    n,
    k,
    METHOD: tl.constexpr,
    PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Compute c = a·bᵀ of matrices a (m, k) and b (n, k), with DyT before or after the product.

    PROLOGUE: c = squash(αa)·bᵀ + bias. EPILOGUE: c = a·bᵀ + residual and
    z = weight·squash(αc) + bias. m, n and k are multiples of the tile's sizes. With DESCRIPTORS,
    a and b are descriptors of tensors, and the GPU's copy engine loads their tiles.
    """
    # Programs that run at the same time read the same rows and columns: GROUP tiles high.
    program, columns = tl.program_id(0), n // BLOCK_N
    group = program // (GROUP * columns)
    height = min(m // BLOCK_M - group * GROUP, GROUP)
    within = program % (GROUP * columns)
    row = (group * GROUP + within % height) * BLOCK_M
    column = within // height * BLOCK_N
    rows, cols = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    if PROLOGUE or EPILOGUE:
        scale = tl.load(alpha).to(tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, k, BLOCK_K):
        if DESCRIPTORS:
            left, right = a.load([row, begin]), b.load([column, begin])
        else:
            depth = begin + tl.arange(0, BLOCK_K)
            left = tl.load(a + rows[:, None] * k + depth[None, :])
            right = tl.load(b + cols[:, None] * k + depth[None, :])
        if PROLOGUE:
            left = _squash_operand(left, scale, METHOD)
        total = tl.dot(left, right.T, total)
    at = rows[:, None] * n + cols[None, :]
    if PROLOGUE and bias is not None:
        total += tl.load(bias + cols)[None, :].to(tl.float32)
    if EPILOGUE:
        total += tl.load(residual + at).to(tl.float32)
    result = total.to(c.dtype.element_ty)
    tl.store(c + at, result)
    if EPILOGUE:
        normed = _squash(scale * result.to(tl.float32), METHOD)
        normed *= tl.load(weight + cols)[None, :].to(tl.float32)
        if bias is not None:
            normed += tl.load(bias + cols)[None, :].to(tl.float32)
        tl.store(z + at, normed.to(c.dtype.element_ty))
