"""Table 3's models at smoke scale with a further arm: DyT with α fitted to 64 noised latents.

    make table FILE=examples/calibrated_dit.py

The arm is a variant of this project. It is in no paper, and therefore in no paper's table. DiT's
norm layers have no γ, so α alone is fitted.
"""

from dataclasses import replace

from dyt import Norm
from matched import Table
from recipes.cvpr2025.smoke.table03 import SCALE
from recipes.cvpr2025.table03 import TABLE as PAPER

LN, DYT = PAPER.arms
CALIBRATED = replace(DYT, name="DyT (calibrated)", norm=Norm.dyt("calibrated"))

TABLE = Table(
    title="Table 3 with calibrated DyT",
    labels={
        "dit_b4": "2 blocks, width 64",
        "dit_l4": "3 blocks, width 96",
        "dit_xl2": "3 blocks, width 64, patches of 2 × 2",
    },
    arms=(LN, DYT, CALIBRATED),
    scales=(
        replace(
            SCALE,
            runs={row: {**runs, CALIBRATED.name: runs["DyT"]} for row, runs in SCALE.runs.items()},
        ),
    ),
)
