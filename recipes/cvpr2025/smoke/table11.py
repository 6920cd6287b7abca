"""Smoke scale of Table 11: the best α0 of four toy LLaMAs, in attention blocks and elsewhere.

The best α0 falls with the width, as in the paper; that attention blocks need a larger one does not
show. Training loss (seed 0) by α0 in attention / elsewhere:

    width × layers    1/1    2/1    2/2    4/1    4/2
    64 × 2          5.158  5.194  5.059  5.241  5.098
    80 × 3          5.070  5.079  4.993  5.084  5.064
    128 × 3         4.663  4.696  4.860  4.738  4.885
    128 × 5         4.727  4.835  5.091  4.945  5.246
"""

from dataclasses import replace

from dyt_llama.config import Pretraining
from recipes.cvpr2025.searches import ALPHA0_BY_PART, LOSS, alpha0_by_part_search
from recipes.cvpr2025.smoke.table04 import GLOSSES
from recipes.iclr2025.smoke import table07
from recipes.iclr2025.smoke.table07 import TOY_NOTE, toy

ATTENTION = (1.0, 2.0, 4.0)
OTHER = (1.0, 2.0)
PAIRS = tuple((a, b) for a in ATTENTION for b in OTHER if b <= a)


def grouped(config: Pretraining) -> Pretraining:
    """Grouped-query attention with four heads of queries for each of keys."""
    return replace(config, network=replace(config.network, kv_heads=config.network.heads // 4))


SIZES = {
    "llama_7b": toy(64, 2),
    "llama_13b": toy(80, 3),
    "llama_34b": grouped(toy(128, 3)),
    "llama_70b": grouped(toy(128, 5)),
}

SCALE = replace(
    table07.SCALE,
    seeds=(0,),
    runs={
        row: {"DyT": alpha0_by_part_search(config, PAIRS, GLOSSES)} for row, config in SIZES.items()
    },
    labels={
        row: f"{config.network.width} × {config.network.depth}" for row, config in SIZES.items()
    },
    note=(
        "Width × depth of the toys is a sixty-fourth and a sixteenth of the models'. As in the "
        f"paper, 34B and 70B have grouped-query attention. {TOY_NOTE}"
    ),
    metrics=(*ALPHA0_BY_PART, LOSS),
)
