"""CVPR 2025, Table 11: the best α0 of LLaMA 7B to 70B, in attention blocks and elsewhere.

    Hardware   as Table 4: 512 GPUs for 7B and 13B, 1,024 for 34B and 70B
    Time       2, 4, 5 and 10 hours for each of 16 runs (from Table 4's, in proportion to the
               tokens; not measured)
    Command    make table11 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table11                                 smoke/table11.py

α0 is chosen by the training loss at 30 billion tokens. "Attention" are the layers before attention,
"other" are all the rest, as in the authors' release. The paper does not print the values that it
tried. ``PAIRS`` has every value that Tables 11 and 12 print for either, in all pairs whose other α0
is not above that of attention, since the paper reports that attention blocks need the larger one.
The paper also does not say whether the runs of the search ended with the schedule: here they are
the first 30 billion tokens of Table 4's runs, whose learning rate is then still 95 % of its peak.
So the best of them is the beginning of Table 4's run.
"""

from dataclasses import replace

from dyt_llama.config import Pretraining
from matched import Arm, Scale, Table
from recipes.cvpr2025.searches import ALPHA0_BY_PART, LOSS, alpha0_by_part_search
from recipes.cvpr2025.table04 import (
    ALL_GPUS,
    BATCH,
    GPUS,
    LENGTH,
    PILE,
    RUN_7B,
    RUN_13B,
    RUN_34B,
    RUN_70B,
    TEXT,
)

TOKENS = 30e9
ATTENTION = (0.2, 0.6, 0.8, 1.0)
OTHER = (0.05, 0.15, 0.2, 0.5, 1.0)
PAIRS = tuple((a, b) for a in ATTENTION for b in OTHER if b <= a)


def beginning(config: Pretraining) -> Pretraining:
    """The first ``TOKENS`` tokens of a run."""
    steps = round(TOKENS / BATCH / LENGTH)
    return replace(config, steps=steps, schedule_steps=config.steps, eval_steps=steps)


HOURS = {"llama_7b": 2, "llama_13b": 4, "llama_34b": 5, "llama_70b": 10}

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        row: {"DyT": alpha0_by_part_search(beginning(config), PAIRS, PILE, minutes=60 * HOURS[row])}
        for row, config in (
            ("llama_7b", RUN_7B),
            ("llama_13b", RUN_13B),
            ("llama_34b", RUN_34B),
            ("llama_70b", RUN_70B),
        )
    },
    resources=GPUS,
    resource_overrides={
        "llama_34b": ALL_GPUS,
        "llama_70b": ALL_GPUS,
        **{f"{row}/tokens": TEXT for row in HOURS},
    },
    metrics=(*ALPHA0_BY_PART, LOSS),
)

TABLE = Table(arms=(Arm(name="DyT"),), scales=(PAPER,))
