"""Mini scale of Table 1: ViTs and ConvNeXts of widths 32 to 384 on the digits, at full length."""

from matched import Run, Scale
from recipes import mini_images
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.table01 import CONVNEXT_B, CONVNEXT_L, TASK, VIT_B, VIT_L
from recipes.mini_images import DIGITS, DIGITS_RESOURCES, convnext, norms_by_width, vit

DIMS_B, DIMS_L = (32, 64, 128, 256), (48, 96, 192, 384)
"""Widths of the ConvNeXts' stages."""
WIDTHS = {
    "vit_b": mini_images.VIT_B.width,
    "vit_l": mini_images.VIT_L.width,
    "convnext_b": DIMS_B[2],
    "convnext_l": DIMS_L[2],
}
"""Row → the width that gives α0; a ConvNeXt's third stage has most of its blocks."""

SCALE = Scale(
    name="mini",
    seeds=(0, 1, 2, 3, 4),
    runs={
        "vit_b": Run(task=TASK, config=vit(VIT_B, DIGITS, mini_images.VIT_B)),
        "vit_l": Run(task=TASK, config=vit(VIT_L, DIGITS, mini_images.VIT_L)),
        "convnext_b": Run(task=TASK, config=convnext(CONVNEXT_B, DIGITS, DIMS_B)),
        "convnext_l": Run(task=TASK, config=convnext(CONVNEXT_L, DIGITS, DIMS_L)),
    },
    arm_norms=norms_by_width(WIDTHS, {DYT.name: DYT.norm}),
    resources=DIGITS_RESOURCES,
)
