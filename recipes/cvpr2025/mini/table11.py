"""Mini scale of Table 11: the best α0 of four LLaMAs, in attention blocks and elsewhere.

    Command    make table11 SCALE=mini
    Time       none: all runs are Table 12's

The widths have the order of the paper's models, and the last two are equally wide, as 34B and 70B.
Without their grouped-query attention, all networks are those of Table 12. It has not been run yet.
"""

from dataclasses import replace

from recipes.cvpr2025.mini import table12
from recipes.cvpr2025.mini.table12 import search
from recipes.mini_text import NOTE, TOKENIZING

SIZES = {
    "llama_7b": (64, 2),
    "llama_13b": (128, 2),
    "llama_34b": (256, 2),
    "llama_70b": (256, 4),
}
"""Row → width and depth."""
SEARCHES = {row: search(*size) for row, size in SIZES.items()}

SCALE = replace(
    table12.SCALE,
    runs={row: {"DyT": found} for row, found in SEARCHES.items()},
    resource_overrides={f"{row}/tokens": TOKENIZING for row in SIZES},
    labels={row: f"{width} × {depth}" for row, (width, depth) in SIZES.items()},
    note=f"Rows are width × depth; all heads have keys of their own. {NOTE}",
)
