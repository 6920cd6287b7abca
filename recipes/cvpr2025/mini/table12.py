"""Mini scale of Table 12: the best α0 of LLaMAs by width and depth, on docstrings.

    Command    make table12 SCALE=mini
    Time       6 hours on one core: 18 runs each of 2 to 7 minutes (estimated), of which 12
               are those of the ICLR submission's Table 7

Three widths and two depths, with six pairs of α0 that are equal, or twice as large in attention
blocks as elsewhere. Run with seed 0, and widths 64 and 128 with seed 1 too (one core of an Intel
Xeon, 2026-11-27): the best α0 falls from 2 at width 64 over 1 at 128 to 0.5 at 256, both with
2 and with 4 layers. docs/LOG.md has the losses.
"""

from matched import Scale, Search
from recipes.cvpr2025.searches import ALPHA0_BY_PART, LOSS, alpha0_by_part_search
from recipes.mini_text import (
    DEPTHS,
    NOTE,
    PAIRS,
    RESOURCES,
    SEEDS,
    TEXT,
    TOKENIZING,
    WIDTHS,
    minutes,
    pretraining,
)


def search(width: int, depth: int) -> Search:
    """Search of a network's α0."""
    return alpha0_by_part_search(pretraining(width, depth), PAIRS, TEXT, **minutes(width, depth))


SCALE = Scale(
    name="mini",
    seeds=SEEDS,
    runs={
        f"width_{paper}": {str(deep): search(width, depth) for deep, depth in DEPTHS.items()}
        for paper, width in WIDTHS.items()
    },
    resources=RESOURCES,
    resource_overrides={f"width_{paper}/tokens": TOKENIZING for paper in WIDTHS},
    labels={
        **{f"width_{paper}": str(width) for paper, width in WIDTHS.items()},
        **{str(paper): str(depth) for paper, depth in DEPTHS.items()},
    },
    note=f"{NOTE} In parentheses and in the lines “paper”: what the paper has instead.",
    metrics=(*ALPHA0_BY_PART, LOSS),
)
