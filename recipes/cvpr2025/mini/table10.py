"""Mini scale of Table 10: the ViTs and MAEs of Tables 1 and 2 on the digits.

Nothing has been run at this scale. Runs of LN are shared with those tables, and DyT's where it has
LN's learning rate.
"""

from matched import Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.mini import table01, table02
from recipes.cvpr2025.table10 import rows
from recipes.mini_images import DIGITS, norms_by_width

RUNS = rows(table01.SCALE, table02.SCALE)
WIDTHS = {
    "vit_b": DIGITS.width("vit_b"),
    "vit_l": DIGITS.width("vit_l"),
    **{row: size.width for row, size in table02.MAE_SIZES.items()},
}

SCALE = Scale(
    name="mini",
    seeds=table02.SCALE.seeds,
    runs=RUNS,
    arm_norms=norms_by_width(WIDTHS, {DYT.name: DYT.norm}),
    resources=table02.SCALE.resources,
    resource_overrides={
        "vit_b": DIGITS.resources_of("vit_b"),
        "vit_l": DIGITS.resources_of("vit_l"),
        **{f"{row}/pretrained": table02.PRETRAINING[row] for row in table02.MAE_SIZES},
    },
    note=(
        "ViTs of width 128 and 192 on digits of 16 × 16 pixels for 100 epochs. MAE: the same "
        "sizes, pretrained on all digits without labels for 150 epochs and fine-tuned on ten "
        "labeled digits per class."
    ),
)
