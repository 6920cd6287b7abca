"""Smoke scale of Table 8: a toy ViT on the digits."""

from matched import Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table08 import DEPTH_NOTE, deep_vit
from recipes.cvpr2025.table09 import alpha_rows
from recipes.iclr2025.table08 import FUNCTIONS, VIT_TINY
from recipes.smoke_norms import ALPHA0, REASON

SCALE = Scale(
    name="smoke",
    seeds=(0,),
    runs=alpha_rows(deep_vit(VIT_TINY, width=32, heads=2), FUNCTIONS, alpha0=ALPHA0),
    resources=table01.SCALE.resources,
    note=(
        f"Toy model: 8 blocks of width 32, images of 16 × 16 pixels. {DEPTH_NOTE} "
        f"α0 is {ALPHA0:g}: {REASON}."
    ),
)
