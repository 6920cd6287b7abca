"""Mini scale of Table 7: the best α0 of LLaMAs by width and depth, on docstrings.

    Command    make iclr-table7 SCALE=mini
    Time       4 hours on one core: 12 runs each of 2 to 7 minutes (estimated), all of CVPR's
               Table 12

It has not been run yet.
"""

from dataclasses import replace

from matched import Search
from recipes.cvpr2025.mini import table12
from recipes.cvpr2025.searches import ALPHA0, LOSS, alpha0_search
from recipes.mini_text import ALPHAS, DEPTHS, TEXT, WIDTHS, minutes, pretraining


def search(width: int, depth: int) -> Search:
    """Search of one α0 of a network."""
    return alpha0_search(pretraining(width, depth), ALPHAS, TEXT, **minutes(width, depth))


SCALE = replace(
    table12.SCALE,
    runs={
        f"width_{paper}": {str(deep): search(width, depth) for deep, depth in DEPTHS.items()}
        for paper, width in WIDTHS.items()
    },
    metrics=(ALPHA0, LOSS),
)
