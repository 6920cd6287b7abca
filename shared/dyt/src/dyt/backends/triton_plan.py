"""Decides from sizes and strides alone how the GPU kernels cut an input up.

Apart from what launches them, as it is the same for tensors that lie alike: it is worked out once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import mul
from typing import NamedTuple

THREADS = 128
# Pieces of 16 bytes that a thread reads at a time, for each way to compute the function, and
# programs to a processor. Together they keep 64 kB of reads under way there, twice what hides the
# memory's latency. The registers allow for it: 64 a thread forward, 128 backward.
STEPS = 4
STEPS_BACKWARD = {"approximate": 4, "fraction": 4, "library": 2, "polynomial": 2, "erf": 2}
PROGRAMS, PROGRAMS_BACKWARD = 8, 4
WIDE = 2**30  # from this distance on, offsets are 64-bit; what a loop may add to them fits in too

Ints = tuple[int, ...]


class Layout(NamedTuple):
    """How tensors lie in memory, seen as positions × channels.

    Positions are one axis or, if nested, two: `inner` is the size of the second. With `first`,
    channels come before the inner positions, else after all positions. Whichever axis comes last
    has stride 1 in every tensor. `strides` has two numbers for each tensor, those of the outer
    positions and of the channels or inner positions, and is unused where all are contiguous.
    """

    first: bool
    positions: int
    inner: int
    channels: int
    nested: bool
    dense: bool
    strides: Ints
    reach: int  # the largest offset


class Launch(NamedTuple):
    """What a kernel is given beside tensors and the function to compute."""

    grid: tuple[int, int]  # blocks of channels, and shares of the positions
    numbers: Ints
    constants: dict[str, bool | int]
    channels: int


@lru_cache(maxsize=4096)
def plan(
    shape: Ints,
    strides: tuple[Ints, ...],
    axes: int | None,
    channel_axis: int,
    size: int,
    steps: int,
    programs: int,
) -> Launch | None:
    """A launch for tensors of one shape, or None if they have to be copied first.

    Args:
        shape: theirs.
        strides: each tensor's.
        axes: how many axes γ and β have, or None without them.
        channel_axis: -1 or 1.
        size: bytes of the largest element that is read or written.
        steps: pieces that a thread reads at a time.
        programs: how many run at once.
    """
    layout = arrange(shape, strides, axes, channel_axis)
    if layout is None:
        return None
    elements = THREADS * 16 // size
    if layout.first:
        positions = min(elements, _power_of_two(layout.positions))
        channels = elements // positions
    else:
        channels = _block(layout.channels, elements)
        positions = elements // channels
    blocks = -(-layout.channels // channels)
    tiles = -(-layout.positions // (steps * positions))
    groups = min(tiles, max(1, (programs + blocks // 2) // blocks))
    last = layout.inner if layout.first else layout.channels
    constants = {
        "STEPS": steps,
        "P": positions,
        "C": channels,
        "FIRST": layout.first,
        "NESTED": layout.nested,
        "DENSE": layout.dense,
        "WIDE": layout.reach >= WIDE,
        "UNIT": math.gcd(16 // size, last, *layout.strides),
        "num_warps": THREADS // 32,
    }
    numbers = (layout.positions, layout.inner, layout.channels, *layout.strides)
    return Launch((blocks, groups), numbers, constants, layout.channels)


def arrange(
    shape: Ints, strides: tuple[Ints, ...], axes: int | None, channel_axis: int
) -> Layout | None:
    """None if there are more axes than two of positions and one of channels, or no stride is 1."""
    count, dense = math.prod(shape), all(_is_contiguous(shape, s) for s in strides)
    if dense and axes is None:  # no channels: one long row
        shape, strides, channel_axis = (1, 1, count), ((count, count, 1),) * len(strides), 1
    first = channel_axis == 1 and math.prod(shape[2:]) > 1
    cut = 1 if channel_axis == 1 else len(shape) - (1 if axes is None else axes)
    if first:
        far, near, last = (_merge(shape, strides, *span) for span in ((0, 1), (1, 2), (2, None)))
    else:
        positions, last = _merge(shape, strides, 0, cut), _merge(shape, strides, cut, None)
        far, near = positions[:-1], positions[-1:]
    if len(far) > 1 or len(last) > 1 or any(s != 1 for _, found in last for s in found):
        return None
    nothing = (1, (0,) * len(strides))
    (outer, outer_strides), (between, inner_strides), (row, _) = (
        axis[0] if axis else nothing for axis in (far, near, last)
    )
    inner, channels = (row, between) if first else (between, row)
    pairs = zip(outer_strides, inner_strides, strict=True)
    return Layout(
        first=first,
        positions=outer * inner,
        inner=inner,
        channels=channels,
        nested=outer > 1,
        dense=dense,
        strides=(0, 0) * len(strides) if dense else tuple(s for pair in pairs for s in pair),
        reach=max(count, *(sum(map(mul, shape, s)) for s in strides)),
    )


def _merge(
    shape: Ints, strides: tuple[Ints, ...], begin: int, end: int | None
) -> list[tuple[int, Ints]]:
    """Sizes and each tensor's strides of some axes, where axes that follow on are one."""
    merged: list[tuple[int, Ints]] = []
    each = zip(*(s[begin:end] for s in strides), strict=True)
    for size, steps in zip(shape[begin:end], each, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == tuple(size * s for s in steps):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    return merged


def _is_contiguous(shape: Ints, strides: Ints) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _block(channels: int, most: int) -> int:
    """The power of two that covers a width with the least waste; of equals, the largest."""
    sizes = [min(most, _power_of_two(channels))]
    while sizes[-1] > 64:  # 128 bytes of bfloat16: what memory delivers at once
        sizes.append(sizes[-1] // 2)
    return min(sizes, key=lambda size: (-channels % size, -size))


def _power_of_two(number: int) -> int:
    """The least that is not below a number."""
    return 1 << (number - 1).bit_length()
