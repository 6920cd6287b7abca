"""Mini scale of Table 4: LLaMAs of widths 64 and 128 on docstrings, with one searched α0.

    Command    make iclr-table4 SCALE=mini
    Time       none: RMSNorm's runs are those of CVPR's Table 4, and DyT's those of Table 7

It has not been run yet.
"""

from dataclasses import replace

from recipes.cvpr2025.mini import table04
from recipes.cvpr2025.mini.table04 import RMSNORM
from recipes.cvpr2025.mini.table11 import SIZES
from recipes.iclr2025.mini.table07 import search
from recipes.mini_text import TOKENIZING, resources

CVPR_ROWS = {"llama_1b4": "llama_7b", "llama_7b": "llama_13b"}
"""Row → the row of CVPR's Table 4 with the same network."""

SCALE = replace(
    table04.SCALE,
    runs={
        row: {"RMSNorm": RMSNORM[same], "DyT": search(*SIZES[same])}
        for row, same in CVPR_ROWS.items()
    },
    resource_overrides={
        **{row: resources(*SIZES[same]) for row, same in CVPR_ROWS.items()},
        **{f"{row}/tokens": TOKENIZING for row in CVPR_ROWS},
    },
    labels={row: table04.SCALE.labels[same] for row, same in CVPR_ROWS.items()},
)
