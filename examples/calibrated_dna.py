"""Table 6 with a further arm at smoke and mini scale: DyT with α and γ fitted before pretraining.

    make table FILE=examples/calibrated_dna.py
    make table FILE=examples/calibrated_dna.py SCALE=mini

The arm is a variant of this project. It is in no paper, and therefore in no paper's table. Its
layers are fitted to 8,192 bases of the training intervals; fine-tuning starts from the pretrained
α.
"""

from dyt import Norm
from matched import Arm, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.mini.table06 import SCALE as MINI
from recipes.cvpr2025.smoke.table06 import SCALE as SMOKE

TABLE = Table(
    title="Table 6 with calibrated DyT",
    labels={"hyenadna": "HyenaDNA", "caduceus": "Caduceus"},
    arms=(*LN_VS_DYT, Arm(name="DyT (calibrated)", norm=Norm.dyt("calibrated"))),
    scales=(SMOKE, MINI),
)
