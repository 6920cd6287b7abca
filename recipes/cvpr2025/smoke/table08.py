"""Smoke scale of Table 8: toy ViTs on the digits."""

from matched import Run, Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table01 import tiny_vit
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table08 import VIT_S

SCALE = Scale(
    name="smoke",
    seeds=(0,),
    runs={
        "vit_s": Run(task=TASK, config=tiny_vit(VIT_S, embed_dim=48, depth=4, num_heads=4)),
        "vit_b": table01.SCALE.runs["vit_b"],
    },
    resources=table01.SCALE.resources,
    note="Toy models: 4 blocks of width 48 (ViT-S) and 64 (ViT-B), images of 16 × 16 pixels.",
)
