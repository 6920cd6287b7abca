"""CVPR 2025, Table 8: ViT-S and ViT-B with other functions in the place of DyT's tanh.

γ·f(αx) + β with f = tanh, the identity, hardtanh or the sigmoid, α learnable and α0 = 0.5,
everything else as in Table 1. The paper reports that training with the identity diverges, and the
best accuracy before it did: a run that diverges ends so here too.

Paper scale: as Table 1, about 3.5 hours on 64 A100s for ViT-B by its operations and 1 for ViT-S.

    make table8                                   # smoke scale, on this machine, minutes
    make table8 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table8 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.table01 import TASK, VIT_B, tiny_vit

VIT_S = replace(VIT_B, model="vit_small_patch16_224")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"vit_s": Run(task=TASK, config=VIT_S), "vit_b": Run(task=TASK, config=VIT_B)},
    resources=table01.PAPER.resources,
)

SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs={
        "vit_s": Run(task=TASK, config=tiny_vit(VIT_S, embed_dim=48, depth=4, num_heads=4)),
        "vit_b": table01.SMOKE.runs["vit_b"],
    },
    resources=table01.SMOKE.resources,
    note="4 blocks, of width 48 (ViT-S) and 64 (ViT-B), on images of 16 × 16 pixels.",
)

TABLE = Table(
    arms=(
        Arm(name="tanh", norm=Norm.dyt(alpha0=0.5)),
        Arm(name="identity", norm=Norm.dyt(alpha0=0.5, squash="identity")),
        Arm(name="hardtanh", norm=Norm.dyt(alpha0=0.5, squash="hardtanh")),
        Arm(name="sigmoid", norm=Norm.dyt(alpha0=0.5, squash="sigmoid")),
    ),
    scales=(SMOKE, PAPER),
)
