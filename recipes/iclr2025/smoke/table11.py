"""Smoke scale of Table 11: toy ConvNets and a toy ViT on the digits."""

from matched import Run, Scale
from recipes.cvpr2025.smoke import table01, table15
from recipes.cvpr2025.smoke.table15 import tiny
from recipes.cvpr2025.table01 import TASK
from recipes.iclr2025.table11 import VGG16, row
from recipes.smoke_norms import ALPHA0, REASON

TINY_VGG16 = tiny(VGG16, "dyt_vision.small:vgg")

SCALE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        "resnet50": row(table15.SCALE.runs["resnet50"], own_norm="BN", alpha0=ALPHA0),
        "vgg16": row(
            Run(task=TASK, config=tiny(VGG16, "dyt_vision.small:vgg")), own_norm="BN", alpha0=ALPHA0
        ),
        "vit_b": row(table01.SCALE.runs["vit_b"], own_norm="LN", alpha0=ALPHA0),
    },
    resources=table15.SCALE.resources,
    note=(
        f"{table15.SCALE.note} ViT: 4 blocks of width 64. DyT: α0 is {ALPHA0:g}, because {REASON}."
    ),
)
