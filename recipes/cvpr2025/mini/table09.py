"""Mini scale of Table 9: a ViT of width 128 on the digits, at full length."""

from dyt import suggested_alpha0
from matched import Scale
from recipes import mini_images
from recipes.cvpr2025.mini import table01
from recipes.cvpr2025.table09 import FUNCTIONS, alpha_rows
from recipes.mini_images import DIGITS_RESOURCES

ALPHA0 = suggested_alpha0(mini_images.VIT_B.width)

SCALE = Scale(
    name="mini",
    seeds=(0, 1, 2, 3, 4),
    runs=alpha_rows(table01.SCALE.runs["vit_b"], FUNCTIONS, alpha0=ALPHA0),
    resources=DIGITS_RESOURCES,
)
