"""CVPR 2025, Table 12: the best α0 of LLaMA by width and depth, in attention blocks and elsewhere.

    Hardware   512 GPUs for a run, as Table 4's 7B; 1,024 for width 8192
    Time       up to 8 hours for each of 16 runs of a cell (from Table 11's, in proportion to depth
               and the square of the width; not measured); 2 hours are requested at least
    Command    make table12 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table12                                 smoke/table12.py

As Table 11, with its tokens, schedule and values: the paper prints neither the values that it tried
nor the tokens, nor the heads and feed-forward widths of these networks. They are LLaMA's rules
(``llama_of``), so that width 4096 with depth 32 is the 7B model, whose runs are Table 11's. The
learning rate and the recomputation of activations are those of the nearest model of Table 4. Width
4096 with depth 64 recomputes them as the 13B model: otherwise it needs an estimated 104 GB.
"""

from dataclasses import replace

from dyt_llama.config import Pretraining
from dyt_llama.network_config import llama_of
from matched import Arm, Scale, Search, Table
from recipes.cvpr2025.searches import ALPHA0_BY_PART, LOSS, alpha0_by_part_search
from recipes.cvpr2025.table04 import ALL_GPUS, GPUS, PILE, RUN_7B, RUN_13B, RUN_34B, RUN_70B, TEXT
from recipes.cvpr2025.table11 import HOURS, PAIRS, beginning

WIDTHS = (1024, 2048, 4096, 8192)
DEPTHS = (8, 16, 32, 64)


def pretraining(width: int, depth: int) -> Pretraining:
    """Pretraining with the settings of the nearest model of Table 4."""
    config = RUN_7B if width < 8192 else RUN_34B if depth < 64 else RUN_70B
    if (width, depth) == (4096, 64):
        config = replace(config, checkpointed=RUN_13B.checkpointed)
    return replace(config, network=llama_of(width, depth))


def search(width: int, depth: int) -> Search:
    """Search of a network's α0, with its share of the time of LLaMA 7B."""
    minutes = 60 * HOURS["llama_7b"] * width**2 * depth / (4096**2 * 32)
    if width == 8192:
        minutes /= ALL_GPUS.gpus / GPUS.gpus
    config = beginning(pretraining(width, depth))
    # The steps of small networks wait for communication.
    return alpha0_by_part_search(config, PAIRS, PILE, minutes=round(max(120, 1.1 * minutes)))


ROWS = {f"width_{width}": width for width in WIDTHS}

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        row: {str(depth): search(width, depth) for depth in DEPTHS} for row, width in ROWS.items()
    },
    resources=GPUS,
    resource_overrides={
        "width_8192": ALL_GPUS,
        **{f"{row}/tokens": TEXT for row in ROWS},
    },
    metrics=(*ALPHA0_BY_PART, LOSS),
)

TABLE = Table(arms=tuple(Arm(name=str(depth)) for depth in DEPTHS), scales=(PAPER,))
