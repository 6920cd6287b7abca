"""ICLR 2025 submission, Table 8: ViT-Tiny with four functions, with and without learnable α.

    Hardware   64 GPUs, as CVPR's Table 1
    Time       under an hour per run on 64 A100s (estimated from operation counts, not measured)
    Command    make iclr-table8 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table8                             smoke/table08.py

γ·f(αx) + β against γ·f(x) + β with f = tanh, identity, hardtanh or sigmoid. The paper says only
that ViT-Tiny is trained on ImageNet-1K; the recipe is that of its Table 9 for ViT-B, which is also
CVPR's; α0 = 1 (Section 2.2). In the paper the identity diverges.
"""

from dataclasses import replace

from matched import Arm, Run, Scale, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table09 import alpha_rows
from recipes.iclr2025.arms import ALPHA0

FUNCTIONS = ("tanh", "identity", "hardtanh", "sigmoid")
VIT_TINY = replace(VIT_B, model="vit_tiny_patch16_224")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=alpha_rows(Run(task=TASK, config=VIT_TINY), FUNCTIONS, alpha0=ALPHA0),
    resources=table01.PAPER.resources,
)

TABLE = Table(arms=tuple(Arm(name=f) for f in FUNCTIONS), scales=(PAPER,))
