"""Mini scale of Table 8: ViT-S of CVPR's Table 8 with and without α, on the digits or on a folder.

The row with α shares its runs with that table.
"""

from dyt import suggested_alpha0
from matched import Run, Scale
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table08 import VIT_S
from recipes.cvpr2025.table09 import alpha_rows
from recipes.iclr2025.table08 import FUNCTIONS
from recipes.mini_images import REASON, SEEDS, Images, on_every_set, vit


def scale(images: Images) -> Scale:
    alpha0 = suggested_alpha0(images.width("vit_s"))
    run = Run(task=TASK, config=vit(VIT_S, images, "vit_s"))
    return Scale(
        name="mini",
        seeds=SEEDS,
        runs=alpha_rows(run, FUNCTIONS, alpha0=alpha0),
        resources=images.resources,
        note=f"{images.note} α0 is {alpha0:.3g}: {REASON}.",
    )


SCALE = on_every_set(scale)
