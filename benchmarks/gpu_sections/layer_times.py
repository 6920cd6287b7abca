"""Times and memory of layers against their peers, by `layers.py`: rows × width, bf16 and fp32."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import layers
import measuring

from gpu_sections import Part, Row, timing

# The most informative shapes come first, because the time on a card may end early.
WIDTHS = (4096, 1024, 8192)
ROWS = tuple(2**n for n in range(8, 16))
FIRST_ROWS = (4096, 256, 32768, 1024, 2048, 8192, 16384, 512)
REHEARSAL = ((16, 64),)
PASSES = ["forward", "backward", "forward+backward"]
ROUNDS = {"cuda": 41, "cpu": 1}


def parts(device: str) -> list[Part]:
    if device == "cpu":
        shapes = [(*shape, "bfloat16") for shape in REHEARSAL]
    else:
        assert sorted(FIRST_ROWS) == list(ROWS)
        shapes = [
            (rows, width, dtype)
            for dtype in ("bfloat16", "float32")
            for width in WIDTHS
            for rows in FIRST_ROWS
        ]
    return [
        Part(
            name=f"{rows} × {width}, {dtype}",
            measure=partial(times, device, (rows, width), dtype),
            limit=90,
            gigabytes=1 + rows * width * 4 * 12 / 2**30,
        )
        for rows, width, dtype in shapes
    ]


def times(device: str, shape: tuple[int, int], dtype: str) -> list[Row]:
    """Return a row for each layer and pass at one shape."""
    rounds = timing.number_of_rounds(ROUNDS[device])
    args = Namespace(device=device, compiled=device == "cuda", passes=PASSES, rounds=rounds)
    environment = measuring.environment(device)
    return list(layers.rows(shape, dtype, args, environment, timing.clock(device)))
