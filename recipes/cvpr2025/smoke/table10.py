"""Smoke scale of Table 10: toy ViTs and MAEs on the digits."""

from matched import Scale
from recipes.cvpr2025.smoke import table01, table02
from recipes.cvpr2025.table10 import rows
from recipes.smoke_norms import SMOKE_NORMS

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs=rows(table01.SCALE, table02.SCALE),
    resources=table02.SCALE.resources,
    note=(
        "Toy models: ViT with 4 and 6 blocks of width 64, images of 16 × 16 pixels. MAE: "
        "the same blocks, pretrained on all digits without labels and fine-tuned on ten labeled "
        "digits per class, which DyT underfits at this width (see Table 2)."
    ),
)
