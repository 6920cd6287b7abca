"""Table 1's models at smoke scale with a further arm: DyT with α fitted to 64 training images.

    make table FILE=examples/calibrated_dyt.py

The arm is a variant of this project. It is in no paper, and therefore in no paper's table.
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Metric, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.smoke.table01 import SCALE

TABLE = Table(
    title="Table 1 with calibrated DyT",
    labels={
        "vit_b": "ViT, 4 blocks",
        "vit_l": "ViT, 6 blocks",
        "convnext_b": "ConvNeXt, width 16 to 64",
        "convnext_l": "ConvNeXt, width 24 to 96",
    },
    arms=(*LN_VS_DYT, Arm(name="DyT (calibrated)", norm=Norm.dyt("calibrated"))),
    scales=(
        replace(SCALE, metrics=(Metric(key="top1", label="top-1", unit="%", direction="higher"),)),
    ),
)
