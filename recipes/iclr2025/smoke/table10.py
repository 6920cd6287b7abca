"""Smoke scale of Table 10: the best α0 of toy LLaMAs by head dimension, length and width.

In the row with heads of 16 channels and 64 tokens, which Figure 5 shows, the best α0 is 4, 4, 2 and
1 at widths 16, 32, 64 and 128. The loss at width 16 (mean of seeds 0 and 1; α0 = 0.5, 1, 2, 4) is
5.970, 5.949, 5.887 and 5.855; smoke/table07.py has those of the other widths.
"""

from dataclasses import replace

from recipes.cvpr2025.searches import alpha0_search
from recipes.cvpr2025.smoke.table04 import GLOSSES
from recipes.iclr2025.smoke import table07
from recipes.iclr2025.smoke.table07 import ALPHAS, DEPTHS, HEAD, TOY_NOTE, toy

DEPTH = DEPTHS[8]
SHARED = "head_dim_128"
"""The row whose runs are Table 7's; only this one has the widest network."""
ROWS = {"head_dim_64": (8, 64), SHARED: (HEAD, 64), "seq_len_2048": (HEAD, 32)}
"""Row → head dimension and length of the samples."""
WIDTHS = {512: 16, **table07.WIDTHS}

SCALE = replace(
    table07.SCALE,
    runs={
        row: {
            str(paper): alpha0_search(toy(width, DEPTH, head=head, length=length), ALPHAS, GLOSSES)
            for paper, width in WIDTHS.items()
            if row == SHARED or width < max(WIDTHS.values())
        }
        for row, (head, length) in ROWS.items()
    },
    labels={
        **{row: f"{head}, {length}" for row, (head, length) in ROWS.items()},
        **{str(paper): str(width) for paper, width in WIDTHS.items()},
    },
    note=f"Networks of {DEPTH} layers; a step has 1,024 tokens at either length. {TOY_NOTE}",
)
