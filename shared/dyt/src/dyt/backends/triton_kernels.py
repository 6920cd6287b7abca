"""Holds the GPU kernels, apart from what launches them, as only this file needs Triton to import.

A kernel sees the input as positions × channels, in either order in memory. One program takes a
block of channels, whose γ and β it keeps in registers, and walks over its share of the positions.
A tile is (A, STEPS, B): B elements lie next to each other in memory, A × B elements are 16 bytes to
each thread, and a thread reads its STEPS such pieces before it computes. Triton deals out the last
axis to the threads, then the first: the steps are a thread's own, and sums over them need no
exchange.

Sizes and strides that are multiples of UNIT are written so that the compiler sees it: it reads 16
bytes at once only where it can prove that they are aligned, and inside or outside together.
"""

from __future__ import annotations

import builtins

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = triton.knobs.runtime.interpret

if INTERPRETED:

    def range(*bounds):
        """Takes the interpreter's scalars, arrays of one element, no numbers to NumPy 2.4."""
        return builtins.range(
            *(b.handle.data.item() if isinstance(b, tl.tensor) else int(b) for b in bounds)
        )


_SIZES = ("positions", "inner", "channels")
_STRIDES = ("x_outer", "x_inner", "grad_outer", "grad_inner")


@triton.jit
def _fraction(v):
    """tanh as v·P(v²)/Q(v²), within 8 units in the last place of float32: the CPU kernel's.

    20 instructions, and none that Triton's interpreter lacks. libdevice's tanh has a few more and a
    branch that threads take differently. From 9.6 on the fraction is past 1. NaN passes.
    """
    v = tl.clamp(v, -9.6, 9.6, propagate_nan=tl.PropagateNan.ALL)
    u = v * v
    top = u * 1.3319191554277749e-8 + 2.0583576838096430e-5
    top = top * u + 3.4940407878825052e-3
    top = top * u + 1.3379723334552876e-1
    bottom = u * 7.7620711028347068e-7 + 3.2831027247690996e-4
    bottom = bottom * u + 2.5871097350323884e-2
    bottom = bottom * u + 4.6713038585743591e-1
    t = v * (top * u + 1.0) / (bottom * u + 1.0)
    return tl.clamp(t, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _polynomial(v):
    """erf for bfloat16: v·P(v²), relative error 2⁻¹², in a third of the library's instructions.

    P is minimax on [0, 2.7]. From there on the result stays 1.00005, which rounds to 1.
    """
    v = tl.clamp(v, -2.7, 2.7, propagate_nan=tl.PropagateNan.ALL)
    u = v * v
    p = u * 7.2539776e-06 - 2.2127045e-04
    p = p * u + 2.8984945e-03
    p = p * u - 2.1799033e-02
    p = p * u + 1.0709035e-01
    p = p * u - 3.7350193e-01
    return v * (p * u + 1.1281660)


@triton.jit
def _squash(u, METHOD: tl.constexpr):
    if METHOD == "erf":
        squashed = tl.erf(u)
    elif METHOD == "polynomial":
        squashed = _polynomial(u)
    elif METHOD == "library":
        squashed = libdevice.tanh(u)
    elif METHOD == "approximate":  # one instruction, relative error 2⁻¹¹
        squashed = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        squashed = _fraction(u)
    return squashed


@triton.jit
def _derivative(u, squashed, METHOD: tl.constexpr):
    if METHOD == "erf" or METHOD == "polynomial":
        slope = 1.1283791670955126 * tl.exp(-u * u)  # 2/√π
    else:
        slope = 1.0 - squashed * squashed
    return slope


@triton.jit
def _multiple(size, UNIT: tl.constexpr, WIDE: tl.constexpr):
    """A size or stride that is a multiple of UNIT already, in a form that shows it."""
    if WIDE:
        size = tl.cast(size, tl.int64)
    return size // UNIT * UNIT


@triton.jit
def _tile(
    STEPS: tl.constexpr, P: tl.constexpr, C: tl.constexpr, FIRST: tl.constexpr, WIDE: tl.constexpr
):
    """Positions in the first tile, and channels, along the tile's axes."""
    step = tl.arange(0, STEPS)[None, :, None] * P
    if FIRST:
        position = step + tl.arange(0, P)[None, None, :]
        channel = tl.program_id(0) * C + tl.arange(0, C)[:, None, None]
    else:
        position = step + tl.arange(0, P)[:, None, None]
        channel = tl.program_id(0) * C + tl.arange(0, C)[None, None, :]
    start = tl.program_id(1) * (STEPS * P)
    if WIDE:
        position, channel = position.to(tl.int64), channel.to(tl.int64)
        start = start.to(tl.int64)
    return start, position, channel


@triton.jit
def _offset(
    position, channel, inner, outer_stride, inner_stride, FIRST: tl.constexpr, NESTED: tl.constexpr
):
    """Where elements lie; with NESTED, positions are two axes, of which `inner` is the second."""
    if NESTED:
        start = position // inner * outer_stride
        position = position % inner
    else:
        start = 0
    if FIRST:
        offset = start + channel * inner_stride + position
    else:
        offset = start + position * inner_stride + channel
    return offset


@triton.jit
def _contiguous_offset(
    position, channel, inner, channels, FIRST: tl.constexpr, NESTED: tl.constexpr
):
    if FIRST:
        offset = _offset(position, channel, inner, channels * inner, inner, FIRST, NESTED)
    else:
        offset = position * channels + channel
    return offset


@triton.jit(do_not_specialize=(*_SIZES, *_STRIDES[:2]))
def forward(
    x,
    alpha,
    shift,
    weight,
    bias,
    y,
    positions,
    inner,
    channels,
    x_outer,
    x_inner,
    METHOD: tl.constexpr,
    STEPS: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    FIRST: tl.constexpr,
    NESTED: tl.constexpr,
    DENSE: tl.constexpr,
    WIDE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """y = γ·squash(αx + s) + β. With DENSE, x is contiguous, as y is always."""
    positions = _multiple(positions, UNIT if FIRST else 1, WIDE)
    inner = _multiple(inner, UNIT if FIRST else 1, WIDE)
    channels = _multiple(channels, 1 if FIRST else UNIT, WIDE)
    x_outer, x_inner = _multiple(x_outer, UNIT, WIDE), _multiple(x_inner, UNIT, WIDE)
    start, tile, channel = _tile(STEPS, P, C, FIRST, WIDE)
    a = tl.load(alpha).to(tl.float32)
    if shift is not None:
        s = tl.load(shift).to(tl.float32)
    if weight is not None:
        w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = _contiguous_offset(position, channel, inner, channels, FIRST, NESTED)
        x_at = at if DENSE else _offset(position, channel, inner, x_outer, x_inner, FIRST, NESTED)
        u = a * tl.load(x + x_at, inside, 0.0).to(tl.float32)
        if shift is not None:
            u += s
        result = _squash(u, METHOD)
        if weight is not None:
            result *= w
        if bias is not None:
            result += b
        tl.store(y + at, result, inside)


@triton.jit(do_not_specialize=(*_SIZES, *_STRIDES))
def backward(
    grad,
    x,
    alpha,
    shift,
    weight,
    dx,
    sums,
    positions,
    inner,
    channels,
    x_outer,
    x_inner,
    grad_outer,
    grad_inner,
    METHOD: tl.constexpr,
    BIAS: tl.constexpr,
    STEPS: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    FIRST: tl.constexpr,
    NESTED: tl.constexpr,
    DENSE: tl.constexpr,
    WIDE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """dx, and in `sums` what each program adds to the parameters' gradients; see `finalise`."""
    positions = _multiple(positions, UNIT if FIRST else 1, WIDE)
    inner = _multiple(inner, UNIT if FIRST else 1, WIDE)
    channels = _multiple(channels, 1 if FIRST else UNIT, WIDE)
    x_outer, x_inner = _multiple(x_outer, UNIT, WIDE), _multiple(x_inner, UNIT, WIDE)
    grad_outer, grad_inner = _multiple(grad_outer, UNIT, WIDE), _multiple(grad_inner, UNIT, WIDE)
    start, tile, channel = _tile(STEPS, P, C, FIRST, WIDE)
    a = tl.load(alpha).to(tl.float32)
    if shift is not None:
        s = tl.load(shift).to(tl.float32)
    if weight is not None:
        w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    dalpha = tl.zeros([C, P] if FIRST else [P, C], tl.float32)
    dshift, dweight, dbias = dalpha, dalpha, dalpha
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = _contiguous_offset(position, channel, inner, channels, FIRST, NESTED)
        if DENSE:
            x_at, grad_at = at, at
        else:
            x_at = _offset(position, channel, inner, x_outer, x_inner, FIRST, NESTED)
            grad_at = _offset(position, channel, inner, grad_outer, grad_inner, FIRST, NESTED)
        v = tl.load(x + x_at, inside, 0.0).to(tl.float32)
        g = tl.load(grad + grad_at, inside, 0.0).to(tl.float32)
        u = a * v
        if shift is not None:
            u += s
        squashed = _squash(u, METHOD)
        slope = g * _derivative(u, squashed, METHOD)
        if weight is not None:
            slope *= w
            dweight += tl.sum(g * squashed, 1)
        if BIAS:
            dbias += tl.sum(g, 1)
        if shift is not None:
            dshift += tl.sum(slope, 1)
        dalpha += tl.sum(slope * v, 1)
        tl.store(dx + at, slope * a, inside)

    group, groups = tl.program_id(1), tl.num_programs(1)
    column = tl.program_id(0) * C + tl.arange(0, C)
    here = sums + group * channels + column
    if weight is not None:
        tl.store(here, tl.sum(dweight, 1 if FIRST else 0), column < channels)
    if BIAS:
        tl.store(here + groups * channels, tl.sum(dbias, 1 if FIRST else 0), column < channels)
    here = sums + 2 * groups * channels + group * tl.num_programs(0) + tl.program_id(0)
    tl.store(here, tl.sum(dalpha))
    if shift is not None:
        tl.store(here + groups * tl.num_programs(0), tl.sum(dshift))


@triton.jit
def _sum_rows(sums, into, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums of the columns of a (rows, width) matrix, for one program's columns."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, rows, ROWS):
        row = begin + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column[None, :] < width)
        total += tl.load(sums + row * width + column[None, :], inside, 0.0)
    tl.store(into + column, tl.sum(total, 0), column < width)


@triton.jit
def _sum_all(sums, into, count, SIZE: tl.constexpr):
    total = tl.zeros([SIZE], tl.float32)
    for begin in range(0, count, SIZE):
        index = begin + tl.arange(0, SIZE)
        total += tl.load(sums + index, index < count, 0.0)
    tl.store(into, tl.sum(total, 0))


@triton.jit(do_not_specialize=("groups", "channels", "programs"))
def finalise(
    sums,
    dalpha,
    dshift,
    dweight,
    dbias,
    groups,
    channels,
    programs,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Adds up the programs' sums, which lie in the order of the arguments below.

    (groups, channels) for γ and as many for β, `programs` numbers for α and as many for s.
    """
    rest = sums + 2 * groups * channels
    if tl.program_id(1) == 0:
        if dweight is not None:
            _sum_rows(sums, dweight, groups, channels, ROWS, COLUMNS)
    elif tl.program_id(1) == 1:
        if dbias is not None:
            _sum_rows(sums + groups * channels, dbias, groups, channels, ROWS, COLUMNS)
    elif tl.program_id(0) == 0:
        _sum_all(rest, dalpha, programs, ROWS * COLUMNS)
        if dshift is not None:
            _sum_all(rest + programs, dshift, programs, ROWS * COLUMNS)
