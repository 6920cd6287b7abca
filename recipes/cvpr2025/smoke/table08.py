"""Smoke scale of Table 8: toy ViTs on the digits."""

from dyt import Norm
from matched import ArmNorms, Run, Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table01 import tiny_vit
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table08 import FUNCTIONS, VIT_S
from recipes.smoke_norms import ALPHA0, REASON

SCALE = Scale(
    name="smoke",
    arm_norms=ArmNorms(
        norms={f: Norm.dyt(alpha0=ALPHA0, squash=f) for f in FUNCTIONS}, reason=REASON
    ),
    seeds=(0,),
    runs={
        "vit_s": Run(task=TASK, config=tiny_vit(VIT_S, embed_dim=48, depth=4, num_heads=4)),
        "vit_b": table01.SCALE.runs["vit_b"],
    },
    resources=table01.SCALE.resources,
    note="Toy models: 4 blocks of width 48 (ViT-S) and 64 (ViT-B), images of 16 × 16 pixels.",
)
