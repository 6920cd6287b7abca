"""CVPR 2025, Table 8: ViT-S and ViT-B with other squashing functions instead of DyT's tanh.

    Hardware   64 GPUs, as Table 1
    Time       3.5 hours per run for ViT-B and 1 for ViT-S on 64 A100s (estimated from operation
               counts, not measured)
    Command    make table8 SCALE=paper CLUSTER=slurm        DRY=1 prints the plan only
    Smoke      make table8                                  smoke/table08.py

γ·f(αx) + β with f = tanh, identity, hardtanh or sigmoid, α learnable and α0 = 0.5; everything else
as in Table 1. The paper reports that training with the identity diverges, and the best accuracy
before that; a diverged run here reports the same.
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.arms import ALPHA0
from recipes.cvpr2025.table01 import TASK, VIT_B

VIT_S = replace(VIT_B, model="vit_small_patch16_224")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"vit_s": Run(task=TASK, config=VIT_S), "vit_b": Run(task=TASK, config=VIT_B)},
    resources=table01.PAPER.resources,
)

FUNCTIONS = ("tanh", "identity", "hardtanh", "sigmoid")
TABLE = Table(
    arms=tuple(Arm(name=f, norm=Norm.dyt(alpha0=ALPHA0, squash=f)) for f in FUNCTIONS),
    scales=(PAPER,),
)
