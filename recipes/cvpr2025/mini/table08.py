"""Mini scale of Table 8: ViTs of widths 64 and 128 on the digits, at full length."""

from dyt import Norm
from matched import Resources, Run, Scale
from recipes import mini_images
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table08 import FUNCTIONS, VIT_S
from recipes.mini_images import DIGITS, norms_by_width, vit

SCALE = Scale(
    name="mini",
    seeds=(0, 1, 2, 3, 4),
    runs={
        "vit_s": Run(task=TASK, config=vit(VIT_S, DIGITS, mini_images.VIT_S, lr=2e-3)),
        "vit_b": Run(task=TASK, config=vit(VIT_B, DIGITS, mini_images.VIT_B, lr=2e-3)),
    },
    arm_norms=norms_by_width(
        {"vit_s": mini_images.VIT_S.width, "vit_b": mini_images.VIT_B.width},
        {f: Norm.dyt(squash=f) for f in FUNCTIONS},
    ),
    resources=Resources(minutes=10),
)
