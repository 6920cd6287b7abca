"""ICLR 2025 submission, Table 8: ViT-Tiny with four functions, with and without learnable α.

γ·f(αx) + β against γ·f(x) + β with f = tanh, the identity, hardtanh or the sigmoid. The paper says
no more than that ViT-Tiny is trained on ImageNet-1K: the recipe is that of its Table 9 for ViT-B,
which is CVPR's; α0 = 1 (Section 2.2). The identity diverges in the paper.

Paper scale: by its operations less than an hour on 64 A100s for each run.

    make iclr-table8                                   # smoke scale, on this machine, minutes
    make iclr-table8 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make iclr-table8 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.table01 import TASK, VIT_B, tiny_vit
from recipes.cvpr2025.table09 import rows

FUNCTIONS = ("tanh", "identity", "hardtanh", "sigmoid")
VIT_TINY = replace(VIT_B, model="vit_tiny_patch16_224")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=rows(Run(task=TASK, config=VIT_TINY), FUNCTIONS, alpha0=1.0),
    resources=table01.PAPER.resources,
)

SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs=rows(
        Run(task=TASK, config=tiny_vit(VIT_TINY, embed_dim=32, depth=4, num_heads=2)),
        FUNCTIONS,
        alpha0=1.0,
    ),
    resources=table01.SMOKE.resources,
    note="4 blocks of width 32 on images of 16 × 16 pixels.",
)

TABLE = Table(arms=tuple(Arm(name=f) for f in FUNCTIONS), scales=(SMOKE, PAPER))
