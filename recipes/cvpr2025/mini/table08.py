"""Mini scale of Table 8: ViTs of widths 64 and 128 on the digits, at full length."""

from matched import Run, Scale
from recipes import mini_images
from recipes.cvpr2025.mini import table01
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table08 import TABLE, VIT_S
from recipes.mini_images import DIGITS, DIGITS_RESOURCES, norms_by_width, vit

SCALE = Scale(
    name="mini",
    seeds=(0, 1, 2, 3, 4),
    runs={
        "vit_s": Run(task=TASK, config=vit(VIT_S, DIGITS, mini_images.VIT_S)),
        "vit_b": table01.SCALE.runs["vit_b"],
    },
    arm_norms=norms_by_width(
        {"vit_s": mini_images.VIT_S.width, "vit_b": mini_images.VIT_B.width},
        {arm.name: arm.norm for arm in TABLE.arms},
    ),
    resources=DIGITS_RESOURCES,
)
