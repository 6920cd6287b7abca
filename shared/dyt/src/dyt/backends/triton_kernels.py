"""GPU kernels in Triton: forward, backward and sums of gradients. Only this module imports Triton.

A kernel treats the input as positions × channels, in either memory order. One program takes a
block of channels, whose γ and β it keeps in registers, and loops over its part of the positions.
A tile is (A, STEPS, B): B elements are adjacent in memory, A × B elements are 16 bytes for each
thread, and a thread reads STEPS such pieces before it computes. Triton distributes the last axis
over the threads, then the first: all steps belong to one thread, and sums over them need no
communication.

Sizes and strides that are multiples of ALIGNMENT are written in a form that shows this to the
compiler: it reads 16 bytes at once only if it can prove that they are aligned and that they are
either all inside or all outside of the bounds.
"""

from __future__ import annotations

import builtins

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = triton.knobs.runtime.interpret

if INTERPRETED:

    def range(*bounds):
        """Convert the interpreter's scalars, which are arrays that NumPy 2.4 does not convert."""
        return builtins.range(
            *(b.handle.data.item() if isinstance(b, tl.tensor) else int(b) for b in bounds)
        )


_SIZES = ("positions", "inner", "channels")
_SCALARS = ("alpha", "shift")
_STRIDES = ("x_outer", "x_inner", "grad_outer", "grad_inner")


@triton.jit
def _rational(v):
    """Compute tanh as v·P(v²)/Q(v²), within 8 units in the last place of float32.

    The same function as the CPU kernel's. It takes 20 instructions, all supported by Triton's
    interpreter; libdevice's tanh takes a few more and has a divergent branch. The fraction exceeds
    1 from 9.6 on. NaN is propagated.
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
    """Compute erf for bfloat16 as v·P(v²), with a relative error of 2⁻¹².

    This takes a third of the library's instructions. P is minimax on [0, 2.7]; from 2.7 on the
    result is 1.00005, which rounds to 1.
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
def _by_exp2(v):
    """Compute tanh for bfloat16 as 1 − 2 / (2^(2v / ln 2) + 1), and as v − v³/3 near zero."""
    t = 1.0 - 2.0 / (tl.exp2(2.8853900817779268 * v) + 1.0)
    return tl.where(tl.abs(v) < 0.03, v - v * v * v * 0.3333333, t)


@triton.jit
def _squash(u, METHOD: tl.constexpr):
    if METHOD == "erf":
        squashed = tl.erf(u)
    elif METHOD == "polynomial":
        squashed = _polynomial(u)
    elif METHOD == "exp2":
        squashed = _by_exp2(u)
    elif METHOD == "library":
        squashed = libdevice.tanh(u)
    elif METHOD == "approximate":  # one instruction, relative error 2⁻¹¹
        squashed = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        squashed = _rational(u)
    return squashed


@triton.jit
def _derivative(u, squashed, METHOD: tl.constexpr):
    if METHOD == "erf" or METHOD == "polynomial":
        slope = 1.1283791670955126 * tl.exp(-u * u)  # 2/√π
    else:
        slope = 1.0 - squashed * squashed
    return slope


@triton.jit
def _aligned(size, ALIGNMENT: tl.constexpr, INT64: tl.constexpr):
    """Return a size or stride in a form that shows that it is a multiple of ALIGNMENT."""
    if INT64:
        size = tl.cast(size, tl.int64)
    return size // ALIGNMENT * ALIGNMENT


@triton.jit
def _tile(
    STEPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    INT64: tl.constexpr,
):
    """Return the program's start, positions relative to it, and channels, along the tile's axes."""
    step = tl.arange(0, STEPS)[None, :, None] * BLOCK_P
    if CHANNELS_FIRST:
        position = step + tl.arange(0, BLOCK_P)[None, None, :]
        channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None, None]
    else:
        position = step + tl.arange(0, BLOCK_P)[:, None, None]
        channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, None, :]
    start = tl.program_id(1) * (STEPS * BLOCK_P)
    if INT64:
        position, channel = position.to(tl.int64), channel.to(tl.int64)
        start = start.to(tl.int64)
    return start, position, channel


@triton.jit
def _offset(
    position,
    channel,
    inner,
    outer_stride,
    inner_stride,
    CHANNELS_FIRST: tl.constexpr,
    NESTED: tl.constexpr,
):
    """Return memory offsets; with NESTED, positions are two axes, the second of size `inner`."""
    if NESTED:
        start = position // inner * outer_stride
        position = position % inner
    else:
        start = 0
    if CHANNELS_FIRST:
        offset = start + channel * inner_stride + position
    else:
        offset = start + position * inner_stride + channel
    return offset


@triton.jit
def _contiguous_offset(
    position, channel, inner, channels, CHANNELS_FIRST: tl.constexpr, NESTED: tl.constexpr
):
    if CHANNELS_FIRST:
        offset = _offset(position, channel, inner, channels * inner, inner, CHANNELS_FIRST, NESTED)
    else:
        offset = position * channels + channel
    return offset


@triton.jit(do_not_specialize=(*_SIZES, *_STRIDES[:2]), do_not_specialize_on_alignment=_SCALARS)
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
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    NESTED: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    INT64: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute y = γ·squash(αx + s) + β. y is always contiguous, and x is with CONTIGUOUS."""
    positions = _aligned(positions, ALIGNMENT if CHANNELS_FIRST else 1, INT64)
    inner = _aligned(inner, ALIGNMENT if CHANNELS_FIRST else 1, INT64)
    channels = _aligned(channels, 1 if CHANNELS_FIRST else ALIGNMENT, INT64)
    x_outer, x_inner = _aligned(x_outer, ALIGNMENT, INT64), _aligned(x_inner, ALIGNMENT, INT64)
    start, tile, channel = _tile(STEPS, BLOCK_P, BLOCK_C, CHANNELS_FIRST, INT64)
    a = tl.load(alpha).to(tl.float32)
    if shift is not None:
        s = tl.load(shift).to(tl.float32)
    if weight is not None:
        w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * BLOCK_P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = _contiguous_offset(position, channel, inner, channels, CHANNELS_FIRST, NESTED)
        x_at = (
            at
            if CONTIGUOUS
            else _offset(position, channel, inner, x_outer, x_inner, CHANNELS_FIRST, NESTED)
        )
        u = a * tl.load(x + x_at, inside, 0.0).to(tl.float32)
        if shift is not None:
            u += s
        result = _squash(u, METHOD)
        if weight is not None:
            result *= w
        if bias is not None:
            result += b
        tl.store(y + at, result, inside)


@triton.jit(do_not_specialize=(*_SIZES, *_STRIDES), do_not_specialize_on_alignment=_SCALARS)
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
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    NESTED: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    INT64: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute dx, and each program's partial sums of the parameters' gradients.

    See `add_partial_sums` for the layout of `sums`.
    """
    positions = _aligned(positions, ALIGNMENT if CHANNELS_FIRST else 1, INT64)
    inner = _aligned(inner, ALIGNMENT if CHANNELS_FIRST else 1, INT64)
    channels = _aligned(channels, 1 if CHANNELS_FIRST else ALIGNMENT, INT64)
    x_outer, x_inner = _aligned(x_outer, ALIGNMENT, INT64), _aligned(x_inner, ALIGNMENT, INT64)
    grad_outer, grad_inner = (
        _aligned(grad_outer, ALIGNMENT, INT64),
        _aligned(grad_inner, ALIGNMENT, INT64),
    )
    start, tile, channel = _tile(STEPS, BLOCK_P, BLOCK_C, CHANNELS_FIRST, INT64)
    a = tl.load(alpha).to(tl.float32)
    if shift is not None:
        s = tl.load(shift).to(tl.float32)
    if weight is not None:
        w = tl.load(weight + channel, channel < channels, 0.0).to(tl.float32)
    dalpha = tl.zeros([BLOCK_C, BLOCK_P] if CHANNELS_FIRST else [BLOCK_P, BLOCK_C], tl.float32)
    dshift, dweight, dbias = dalpha, dalpha, dalpha
    for begin in range(start, positions, tl.num_programs(1) * (STEPS * BLOCK_P)):
        position = begin + tile
        inside = (position < positions) & (channel < channels)
        at = _contiguous_offset(position, channel, inner, channels, CHANNELS_FIRST, NESTED)
        if CONTIGUOUS:
            x_at, grad_at = at, at
        else:
            x_at = _offset(position, channel, inner, x_outer, x_inner, CHANNELS_FIRST, NESTED)
            grad_at = _offset(
                position, channel, inner, grad_outer, grad_inner, CHANNELS_FIRST, NESTED
            )
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
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = sums + group * channels + column
    if weight is not None:
        tl.store(here, tl.sum(dweight, 1 if CHANNELS_FIRST else 0), column < channels)
    if BIAS:
        tl.store(
            here + groups * channels, tl.sum(dbias, 1 if CHANNELS_FIRST else 0), column < channels
        )
    here = sums + 2 * groups * channels + group * tl.num_programs(0) + tl.program_id(0)
    tl.store(here, tl.sum(dalpha))
    if shift is not None:
        tl.store(here + groups * tl.num_programs(0), tl.sum(dshift))


@triton.jit
def _sum_rows(sums, into, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum the columns of a (rows, width) matrix, for one program's columns."""
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


@triton.jit(
    do_not_specialize=("groups", "channels", "programs"),
    do_not_specialize_on_alignment=("dalpha", "dshift"),
)
def add_partial_sums(
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
    """Add up the programs' partial sums of the gradients.

    `sums` holds (groups, channels) numbers for γ and as many for β, then `programs` numbers for α
    and as many for s.
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
