"""Mini scale of Table 10: the best α0 of LLaMAs by head dimension, length and width, on docstrings.

    Command    make iclr-table10 SCALE=mini
    Time       100 minutes on one core: 48 runs of 2 minutes (estimated); the row with heads of 16
               channels and 128 tokens is Table 7's

It has not been run yet.
"""

from dataclasses import replace

from matched import Search
from recipes.cvpr2025.searches import alpha0_search
from recipes.iclr2025.mini import table07
from recipes.mini_text import (
    ALPHAS,
    DEPTHS,
    HEAD,
    LENGTH,
    NOTE,
    TEXT,
    TOKENIZING,
    WIDTHS,
    minutes,
    pretraining,
)

DEPTH = DEPTHS[8]
SHARED = "head_dim_128"
"""The row whose runs are Table 7's; only this one has the widest network."""
ROWS = {"head_dim_64": (8, LENGTH), SHARED: (HEAD, LENGTH), "seq_len_2048": (HEAD, LENGTH // 2)}
"""Row → head dimension and length of the samples."""


def search(width: int, head: int, length: int) -> Search:
    """Search of one α0 of a network."""
    config = pretraining(width, DEPTH, head=head, length=length)
    return alpha0_search(config, ALPHAS, TEXT, **minutes(width, DEPTH))


SCALE = replace(
    table07.SCALE,
    runs={
        row: {
            str(paper): search(width, *setting)
            for paper, width in WIDTHS.items()
            if row == SHARED or width < max(WIDTHS.values())
        }
        for row, setting in ROWS.items()
    },
    resource_overrides={f"{row}/tokens": TOKENIZING for row in ROWS},
    labels={
        **{row: f"{head}, {length}" for row, (head, length) in ROWS.items()},
        **{str(paper): str(width) for paper, width in WIDTHS.items()},
    },
    note=f"Networks of {DEPTH} layers. {NOTE}",
)
