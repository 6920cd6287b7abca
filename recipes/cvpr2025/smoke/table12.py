"""Smoke scale of Table 12: the best α0 of toy LLaMAs by width and depth, on WordNet's glosses.

Pairs of equal values are runs of the ICLR submission's Table 7, whose page has what they found. In
Table 11's toys a larger α0 in attention blocks raises the loss at every size.
"""

from dataclasses import replace

from recipes.cvpr2025.searches import ALPHA0_BY_PART, LOSS, alpha0_by_part_search
from recipes.cvpr2025.smoke.table04 import GLOSSES
from recipes.iclr2025.smoke import table07
from recipes.iclr2025.smoke.table07 import DEPTHS, TOY_NOTE, WIDTHS, toy

PAIRS = ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (4.0, 2.0), (4.0, 4.0))

SCALE = replace(
    table07.SCALE,
    seeds=(0,),
    runs={
        f"width_{paper}": {
            str(depth): alpha0_by_part_search(toy(width, tiny), PAIRS, GLOSSES)
            for depth, tiny in DEPTHS.items()
        }
        for paper, width in WIDTHS.items()
    },
    note=f"Pairs of equal values are runs of the ICLR submission's Table 7. {TOY_NOTE}",
    metrics=(*ALPHA0_BY_PART, LOSS),
)
