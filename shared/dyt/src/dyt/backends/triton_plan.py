"""Launch plans of the GPU kernels: grid and tile sizes, from sizes and strides alone.

Separate from the launch because a plan is the same for all tensors of equal sizes and strides, and
is computed once for them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import mul
from typing import NamedTuple

THREADS = 128
# STEPS: pieces of 16 bytes that a thread reads at a time, in the backward pass for each method of
# `triton_choice._method`. PROGRAMS: programs per multiprocessor. Together they keep 64 kB of reads
# in flight there, twice the amount that hides memory latency. The registers suffice for that: 64
# per thread forward, 128 backward.
STEPS = 4
STEPS_BACKWARD = {
    "approximate": 4,
    "exp2": 4,
    "rational": 4,
    "library": 2,
    "polynomial": 2,
    "erf": 2,
}
PROGRAMS, PROGRAMS_BACKWARD = 8, 4
# Offsets from this number on are computed in 64 bits. Below it, 32 bits also suffice for the
# numbers that a loop may add to an offset.
INT64_FROM = 2**30

Ints = tuple[int, ...]


class Layout(NamedTuple):
    """Memory layout of tensors of one shape, as positions × channels.

    Positions are one axis or, if `nested`, two: `inner` is the size of the second. With
    `channels_first`, channels come before the inner positions, otherwise after all positions. The
    last axis has stride 1 in every tensor. `strides` has two numbers for each tensor, those of the
    outer positions and of the channels or inner positions; it is unused if all tensors are
    contiguous.
    """

    channels_first: bool
    positions: int
    inner: int
    channels: int
    nested: bool
    contiguous: bool
    strides: Ints
    max_offset: int


class Launch(NamedTuple):
    """Arguments of a kernel other than tensors and the function to compute."""

    grid: tuple[int, int]  # blocks of channels, and groups of positions
    numbers: Ints
    constants: dict[str, bool | int]
    channels: int


@lru_cache(maxsize=4096)
def plan_launch(
    shape: Ints,
    strides: tuple[Ints, ...],
    channel_ndim: int | None,
    channel_axis: int,
    size: int,
    steps: int,
    programs: int,
    threads: int = THREADS,
) -> Launch | None:
    """Return a launch for tensors of one shape, or None if they must be copied first.

    Args:
        shape: the shape of all tensors.
        strides: the strides of each tensor.
        channel_ndim: the number of axes of γ and β, or None without them.
        channel_axis: -1 or 1.
        size: bytes of the largest element that is read or written.
        steps: pieces that a thread reads at a time.
        programs: the number of programs that run concurrently.
        threads: the number of threads of a program.
    """
    layout = find_layout(shape, strides, channel_ndim, channel_axis)
    if layout is None:
        return None
    elements = threads * 16 // size
    if layout.channels_first:
        positions = min(elements, _next_power_of_two(layout.positions))
        channels = elements // positions
    else:
        channels = _channel_block(layout.channels, elements)
        positions = elements // channels
    blocks = -(-layout.channels // channels)
    tiles = -(-layout.positions // (steps * positions))
    groups = min(tiles, max(1, (programs + blocks // 2) // blocks))
    last = layout.inner if layout.channels_first else layout.channels
    constants = {
        "STEPS": steps,
        "BLOCK_P": positions,
        "BLOCK_C": channels,
        "CHANNELS_FIRST": layout.channels_first,
        "NESTED": layout.nested,
        "CONTIGUOUS": layout.contiguous,
        "INT64": layout.max_offset >= INT64_FROM,
        "ALIGNMENT": math.gcd(16 // size, last, *layout.strides),
        "num_warps": threads // 32,
    }
    numbers = (layout.positions, layout.inner, layout.channels, *layout.strides)
    return Launch((blocks, groups), numbers, constants, layout.channels)


def find_layout(
    shape: Ints, strides: tuple[Ints, ...], channel_ndim: int | None, channel_axis: int
) -> Layout | None:
    """Return the layout of tensors of one shape, or None if the kernels do not support it.

    Unsupported: more than two axes of positions or one of channels after adjacent axes are merged,
    or a last axis whose stride is not 1.
    """
    count, contiguous = math.prod(shape), all(_is_contiguous(shape, s) for s in strides)
    if contiguous and channel_ndim is None:  # no channels: one long row
        shape, strides, channel_axis = (1, 1, count), ((count, count, 1),) * len(strides), 1
    first = channel_axis == 1 and math.prod(shape[2:]) > 1
    cut = 1 if channel_axis == 1 else len(shape) - (1 if channel_ndim is None else channel_ndim)
    if first:
        spans = ((0, 1), (1, 2), (2, None))
        outer_axes, inner_axes, last_axes = (_merge_axes(shape, strides, *span) for span in spans)
    else:
        positions = _merge_axes(shape, strides, 0, cut)
        outer_axes, inner_axes = positions[:-1], positions[-1:]
        last_axes = _merge_axes(shape, strides, cut, None)
    last_is_dense = all(s == 1 for _, axis_strides in last_axes for s in axis_strides)
    if len(outer_axes) > 1 or len(last_axes) > 1 or not last_is_dense:
        return None
    absent = (1, (0,) * len(strides))
    (outer, outer_strides), (middle, middle_strides), (row, _) = (
        axes[0] if axes else absent for axes in (outer_axes, inner_axes, last_axes)
    )
    inner, channels = (row, middle) if first else (middle, row)
    pairs = zip(outer_strides, middle_strides, strict=True)
    return Layout(
        channels_first=first,
        positions=outer * inner,
        inner=inner,
        channels=channels,
        nested=outer > 1,
        contiguous=contiguous,
        strides=(0, 0) * len(strides) if contiguous else tuple(s for pair in pairs for s in pair),
        max_offset=max(count, *(sum(map(mul, shape, s)) for s in strides)),
    )


def _merge_axes(
    shape: Ints, strides: tuple[Ints, ...], begin: int, end: int | None
) -> list[tuple[int, Ints]]:
    """Return size and strides of some axes, merging those that are adjacent in every tensor."""
    merged: list[tuple[int, Ints]] = []
    strides_by_axis = zip(*(s[begin:end] for s in strides), strict=True)
    for size, axis_strides in zip(shape[begin:end], strides_by_axis, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == tuple(size * s for s in axis_strides):
            merged[-1] = (merged[-1][0] * size, axis_strides)
        else:
            merged.append((size, axis_strides))
    return merged


def _is_contiguous(shape: Ints, strides: Ints) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _channel_block(channels: int, largest: int) -> int:
    """Return the block size, a power of two, with the least waste; of equals, the largest."""
    sizes = [min(largest, _next_power_of_two(channels))]
    while sizes[-1] > 64:  # 128 bytes of bfloat16: what memory delivers at once
        sizes.append(sizes[-1] // 2)
    return min(sizes, key=lambda size: (-channels % size, -size))


def _next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not less than a number."""
    return 1 << (number - 1).bit_length()
