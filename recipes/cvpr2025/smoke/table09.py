"""Smoke scale of Table 9: a toy ViT on the digits."""

from matched import Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.table09 import FUNCTIONS, alpha_rows
from recipes.smoke_norms import ALPHA0, REASON

SCALE = Scale(
    name="smoke",
    seeds=(0,),
    runs=alpha_rows(table01.SCALE.runs["vit_b"], FUNCTIONS, alpha0=ALPHA0),
    resources=table01.SCALE.resources,
    note=(
        f"Toy model: 4 blocks of width 64, images of 16 × 16 pixels. α0 is {ALPHA0:g}: {REASON}."
    ),
)
