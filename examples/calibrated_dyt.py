"""Table 1's models at smoke scale with a further arm: DyT with α fitted to 64 training images.

    make table FILE=examples/calibrated_dyt.py

The arm is a variant of this project. It is in no paper, and therefore in no paper's table. Top-1 in
percent, two seeds, on an Intel Xeon (the arm DyT has α0 = 2, which the width rule gives):

    ViT, 4 blocks               LN 91.5 ± 1.0   DyT 91.5 ± 0.2   calibrated 93.3 ± 0.8
    ViT, 6 blocks               LN 91.4 ± 2.0   DyT 90.6 ± 0.4   calibrated 94.2 ± 0.0
    ConvNeXt, width 16 to 64    LN 94.7 ± 0.4   DyT 94.9 ± 0.6   calibrated 96.7 ± 0.8
    ConvNeXt, width 24 to 96    LN 93.5 ± 0.2   DyT 95.8 ± 0.4   calibrated 95.7 ± 0.2
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
