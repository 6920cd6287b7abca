"""Tests of the launch plans of the GPU kernels: pure arithmetic, without Triton and without a GPU.

test_triton_kernel.py checks that the results are right; a plan that only wastes the GPU, or whose
promise of alignment is wrong at other addresses, gives the right results there.
"""

import math

import pytest
import torch

from dyt.backends import triton, triton_choice
from dyt.backends.triton_plan import (
    PROGRAMS,
    STEPS,
    THREADS,
    find_layout,
    plan_launch,
)

H100 = 132 * PROGRAMS
BF16, FP32 = 2, 4


def contiguous(shape):
    return torch.empty(shape, device="meta").stride()


def plan(shape, *strides, axis=-1, size=BF16, channel_ndim=1, programs=H100):
    return plan_launch(
        shape, strides or (contiguous(shape),), channel_ndim, axis, size, STEPS, programs
    )


# Shape, channel axis, bytes of an element; blocks and groups of the grid, positions and channels of
# a tile. 128 threads with 16 bytes each read 2 kB at a time: 1,024 numbers of bfloat16.
PLANS = {
    "LLaMA 7B": ((4096, 4096), -1, BF16, (4, 264), (1, 1024)),
    "LLaMA 7B fp32": ((4096, 4096), -1, FP32, (8, 132), (1, 512)),
    # 1,024 and 512 would waste a quarter and a third of the channels.
    "ViT-B": ((128, 197, 768), -1, BF16, (3, 352), (4, 256)),
    "ViT-L": ((32, 197, 1024), -1, BF16, (1, 1056), (1, 1024)),
    "LLaMA 13B": ((4096, 5120), -1, BF16, (5, 211), (1, 1024)),
    # 1,056 programs are 150.9 for each of 7 blocks.
    "7 blocks": ((4096, 7168), -1, BF16, (7, 151), (1, 1024)),
    # Fewer tiles than programs: each program has one tile of 4 steps.
    "few rows": ((64, 768), -1, BF16, (3, 4), (4, 256)),
    "one row": ((1, 4096), -1, BF16, (4, 1), (1, 1024)),
    "narrow": ((4096, 20), -1, FP32, (1, 64), (16, 32)),
    "ConvNeXt-T": ((64, 96, 56, 56), 1, BF16, (96, 11), (1024, 1)),
    "ConvNeXt-T last stage": ((2, 768, 7, 7), 1, BF16, (96, 1), (128, 8)),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan_launch_of_the_papers_models(name):
    shape, axis, size, grid, tile = PLANS[name]
    launch = plan(shape, axis=axis, size=size)
    constants = launch.constants
    assert launch.grid == grid
    assert (constants["BLOCK_P"], constants["BLOCK_C"]) == tile
    assert constants["num_warps"] * 32 == THREADS
    assert (constants["STEPS"], constants["CONTIGUOUS"], constants["INT64"]) == (STEPS, True, False)
    assert constants["CHANNELS_FIRST"] == (axis == 1)


@pytest.mark.parametrize("size", [BF16, FP32])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("programs", [1, 100, 1000])
def test_plan_launch_reads_16_bytes_per_thread(size, axis, programs):
    for rows in (1, 3, 1000, 4096):
        for width in (1, 33, 64, 96, 768, 1000, 5120):
            shape = (rows, width) if axis == -1 else (2, width, rows)
            launch = plan(shape, axis=axis, size=size, programs=programs)
            (blocks, groups), constants = launch.grid, launch.constants
            positions = rows if axis == -1 else 2 * rows
            if axis == 1 and rows == 1:
                positions = 2
            assert constants["BLOCK_P"] * constants["BLOCK_C"] * size == THREADS * 16
            assert blocks == math.ceil(width / constants["BLOCK_C"])
            tiles = math.ceil(positions / (STEPS * constants["BLOCK_P"]))
            assert 1 <= groups <= tiles
            # As many programs as run concurrently, up to the rounding to whole groups.
            assert groups == tiles or groups == 1 or abs(blocks * groups - programs) <= blocks / 2


def test_channel_blocks_of_wide_layers_have_128_bytes_at_least():
    for width in range(64, 2000, 7):
        assert plan((512, width)).constants["BLOCK_C"] >= 64


def test_plan_launch_of_two_axes_of_positions():
    """Two of three axes cannot be merged in the second tensor, of which only some rows are used."""
    launch = plan_launch((4, 6, 8), ((48, 8, 1), (96, 8, 1)), 1, -1, BF16, 2, 100, threads=64)
    assert launch.grid == (1, 1) and launch.channels == 8
    assert launch.numbers == (24, 6, 8, 48, 8, 96, 8)
    assert launch.constants == {
        "STEPS": 2, "BLOCK_P": 64, "BLOCK_C": 8, "CHANNELS_FIRST": False, "NESTED": True,
        "CONTIGUOUS": False, "INT64": False, "ALIGNMENT": 8, "num_warps": 2,
    }  # fmt: skip


def test_plan_launch_of_channels_first():
    """A plane of 5 × 7 positions: a tile has all positions of 8 channels, of which 3 exist."""
    launch = plan((2, 3, 5, 7), axis=1)
    assert launch.grid == (1, 1) and launch.channels == 3
    assert launch.numbers == (70, 35, 3, 0, 0)
    assert launch.constants == {
        "STEPS": 4, "BLOCK_P": 128, "BLOCK_C": 8, "CHANNELS_FIRST": True, "NESTED": True,
        "CONTIGUOUS": True, "INT64": False, "ALIGNMENT": 1, "num_warps": 4,
    }  # fmt: skip


def test_plan_launch_without_channels_is_one_long_row():
    launch = plan((4, 6, 8), channel_ndim=None)
    assert launch.numbers == (192, 192, 1, 0, 0) and launch.constants["CHANNELS_FIRST"]
    turned = plan((4, 6), (1, 4), channel_ndim=None)
    assert turned is None, "it must be copied first"


@pytest.mark.parametrize(
    ("shape", "strides", "channel_ndim", "axis"),
    [
        ((4, 6, 8), (96, 12, 2), 1, -1),
        ((4, 6, 8), (1, 4, 24), 1, -1),
        ((2, 3, 4, 8), (400, 100, 20, 1), 1, -1),
        ((2, 3, 4, 8), (400, 100, 20, 1), 2, -1),
        ((2, 3, 4, 5), (120, 1, 15, 3), 1, 1),
        ((2, 3, 4, 5), (200, 60, 10, 1), 1, 1),
    ],
    ids=[
        "every second channel", "transposed", "three axes of positions", "two axes of channels",
        "channels last", "rows of a wider plane",
    ],
)  # fmt: skip
def test_find_layout_refuses_what_the_kernels_cannot_read(shape, strides, channel_ndim, axis):
    assert find_layout(shape, (strides,), channel_ndim, axis) is None
    whole = contiguous(shape)
    assert find_layout(shape, (whole, strides), channel_ndim, axis) is None
    assert find_layout(shape, (whole,), channel_ndim, axis) is not None


# Shape and strides of each tensor; the largest power of two that divides every offset of a row,
# in numbers, up to the 8 numbers of bfloat16 that a thread reads at once.
ALIGNMENTS = {
    "contiguous": ((6, 64), [(64, 1)], -1, 8),
    "odd width": ((6, 33), [(33, 1)], -1, 1),
    "even width": ((6, 36), [(36, 1)], -1, 4),
    "columns of a wider matrix": ((6, 64), [(68, 1)], -1, 4),
    "one tensor of two": ((6, 64), [(64, 1), (66, 1)], -1, 2),
    "plane": ((2, 3, 16, 16), [(768, 256, 16, 1)], 1, 8),
    "odd plane": ((2, 3, 7, 7), [(147, 49, 7, 1)], 1, 1),
    "some channels": ((2, 8, 4, 4), [(12 * 16 + 4, 16, 4, 1)], 1, 4),
}


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_plan_launch_promises_no_more_alignment_than_there_is(name):
    shape, strides, axis, alignment = ALIGNMENTS[name]
    assert plan(shape, *strides, axis=axis).constants["ALIGNMENT"] == alignment
    in_fp32 = plan(shape, *strides, axis=axis, size=FP32).constants["ALIGNMENT"]
    assert in_fp32 == min(alignment, 4), "16 bytes have 4 numbers of float32"


@pytest.mark.parametrize(
    ("shape", "strides", "int64"),
    [
        ((2**18, 4096), [(4096, 1)], True),
        ((2**18 - 2, 4096), [(4096, 1)], False),
        ((2**18, 4096), [(0, 1)], True),  # of an expanded input, whose output is contiguous
        ((3, 8), [(8, 1)], False),
        ((3, 8), [(2**30, 1)], True),
        ((3, 8), [(8, 1), (2**30, 1)], True),
        ((3, 8), [(2**30, 1), (8, 1)], True),
    ],
    ids=str,
)
def test_plan_launch_uses_64_bit_offsets_above_a_billion(shape, strides, int64):
    """Half of the largest 32-bit number, as the kernels' loops add to an offset."""
    assert plan(shape, *strides).constants["INT64"] == int64


def test_find_layout_merges_positions_that_are_adjacent_in_every_tensor():
    shape = (4, 6, 8)
    whole, cut = (48, 8, 1), (96, 8, 1)
    merged = find_layout(shape, (whole, whole), 1, -1)
    assert (merged.positions, merged.inner, merged.nested, merged.contiguous) == (
        24,
        24,
        False,
        True,
    )
    nested = find_layout(shape, (whole, cut), 1, -1)
    assert (nested.positions, nested.inner, nested.nested) == (24, 6, True)
    assert nested.strides == (48, 8, 96, 8) and not nested.contiguous


def test_find_layout_ignores_strides_of_axes_of_size_1():
    layout = find_layout((1, 5, 1, 8), ((999, 8, 7, 1),), 1, -1)
    assert layout == find_layout((5, 8), ((8, 1),), 1, -1)._replace(max_offset=layout.max_offset)
    assert layout.contiguous


@pytest.mark.parametrize(
    ("shape", "axis", "first", "positions", "channels"),
    [
        ((2, 3, 5, 7), 1, True, 70, 3),
        ((2, 3), 1, False, 2, 3),
        ((2, 3, 1, 1), 1, False, 2, 3),
        ((2, 5, 3), -1, False, 10, 3),
    ],
    ids=str,
)
def test_find_layout_of_channels_at_axis_1_or_last(shape, axis, first, positions, channels):
    layout = find_layout(shape, (contiguous(shape),), 1, axis)
    found = (layout.channels_first, layout.positions, layout.channels)
    assert found == (first, positions, channels)


class Planned(Exception):
    """Ends a launch when it is planned."""


@pytest.mark.parametrize(
    ("x", "other", "size"),
    [("bfloat16", "bfloat16", 2), ("bfloat16", "float32", 4), ("float32", "bfloat16", 4)],
)
def test_launch_is_planned_for_the_largest_element(monkeypatch, x, other, size):
    """Of input and output in the forward pass, of input and gradient in the backward pass."""
    sizes = []

    def plan(shape, strides, parameter, channel_axis, size, *rest):
        sizes.append(size)
        raise Planned

    monkeypatch.setattr(triton_choice, "_plan", plan)
    monkeypatch.setattr(triton_choice, "_method", lambda *_: "library")
    x, other = getattr(torch, x), getattr(torch, other)
    inputs = torch.ones(2, 8, dtype=x)
    alpha, weight = torch.ones(1, dtype=other), torch.ones(8, dtype=other)
    options = (alpha, None, weight, None, "tanh", -1, False)
    with pytest.raises(Planned):
        triton.forward(inputs, *options)
    with pytest.raises(Planned):
        triton.backward(inputs.to(other), inputs, *options)
    assert sizes == [size, size]
