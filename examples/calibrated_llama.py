"""Table 4's models at smoke scale with a further arm: DyT with α and γ fitted to 32 samples.

    make table FILE=examples/calibrated_llama.py

The arm is a variant of this project. It is in no paper, and therefore in no paper's table. Like the
arm DyT it has a learnable scalar on the embedding, but no α0 chosen by hand.
"""

from dataclasses import replace

from dyt import Norm
from matched import Table
from recipes.cvpr2025.smoke.table04 import SCALE
from recipes.cvpr2025.table04 import DYT, RMSNORM_VS_DYT

CALIBRATED = replace(DYT, name="DyT (calibrated)", norm=Norm.dyt("calibrated"))

TABLE = Table(
    title="Table 4 with calibrated DyT",
    labels={
        "llama_7b": "2 layers",
        "llama_13b": "3 layers",
        "llama_34b": "2 layers, grouped-query attention",
        "llama_70b": "3 layers, grouped-query attention",
    },
    arms=(*RMSNORM_VS_DYT, CALIBRATED),
    scales=(
        replace(
            SCALE,
            runs={row: {**runs, CALIBRATED.name: runs["DyT"]} for row, runs in SCALE.runs.items()},
        ),
    ),
)
