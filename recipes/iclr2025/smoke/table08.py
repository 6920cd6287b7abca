"""Smoke scale of Table 8: a toy ViT on the digits."""

from matched import Run, Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table01 import tiny_vit
from recipes.cvpr2025.smoke.table08 import IDENTITY_NOTE
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table09 import alpha_rows
from recipes.iclr2025.table08 import FUNCTIONS, VIT_TINY
from recipes.smoke_norms import ALPHA0, REASON

SCALE = Scale(
    name="smoke",
    seeds=(0,),
    runs=alpha_rows(
        Run(task=TASK, config=tiny_vit(VIT_TINY, embed_dim=32, depth=4, num_heads=2)),
        FUNCTIONS,
        alpha0=ALPHA0,
    ),
    resources=table01.SCALE.resources,
    note=(
        f"Toy model: 4 blocks of width 32, images of 16 × 16 pixels. {IDENTITY_NOTE} "
        f"α0 is {ALPHA0:g}: {REASON}."
    ),
)
