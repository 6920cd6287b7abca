"""Mini scale of Table 11: small ConvNets and a ViT of width 128 on the digits.

The ViT with LN is Table 1's. Nothing has been tuned or run at this scale.
"""

from dyt import suggested_alpha0
from matched import Run, Scale
from recipes.cvpr2025.mini import table01, table15
from recipes.cvpr2025.mini.table15 import VGG_WIDTH, WIDTHS, small
from recipes.cvpr2025.table01 import TASK
from recipes.iclr2025.table11 import VGG16, row
from recipes.mini_images import DIGITS, REASON, SEEDS

ALPHA0 = {
    "resnet50": suggested_alpha0(WIDTHS["resnet50"]),
    "vgg16": suggested_alpha0(WIDTHS["vgg19"]),
    "vit_b": suggested_alpha0(DIGITS.width("vit_b")),
}
VGG = Run(task=TASK, config=small(VGG16, "dyt_vision.small:vgg", VGG_WIDTH))

SCALE = Scale(
    name="mini",
    seeds=SEEDS,
    runs={
        "resnet50": row(table15.SCALE.runs["resnet50"], own_norm="BN", alpha0=ALPHA0["resnet50"]),
        "vgg16": row(VGG, own_norm="BN", alpha0=ALPHA0["vgg16"]),
        "vit_b": row(table01.SCALE.runs["vit_b"], own_norm="LN", alpha0=ALPHA0["vit_b"]),
    },
    resources=table15.SCALE.resources,
    resource_overrides={"vit_b": DIGITS.resources_of("vit_b")},
    note=(
        f"{table15.SCALE.note} ViT: 6 blocks of width 128 for 100 epochs. α0 of DyT is "
        f"{', '.join(f'{value:.3g} ({name})' for name, value in ALPHA0.items())}: {REASON}."
    ),
)
