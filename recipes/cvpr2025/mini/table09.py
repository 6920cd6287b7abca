"""Mini scale of Table 9: Table 8's ViT-B with and without α, on the digits or on a folder."""

from dyt import suggested_alpha0
from matched import Run, Scale
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table09 import FUNCTIONS, alpha_rows
from recipes.mini_images import REASON, SEEDS, Images, on_every_set, vit


def scale(images: Images) -> Scale:
    alpha0 = suggested_alpha0(images.width("vit_b"))
    run = Run(task=TASK, config=vit(VIT_B, images, "vit_b"))
    return Scale(
        name="mini",
        seeds=SEEDS,
        runs=alpha_rows(run, FUNCTIONS, alpha0=alpha0),
        resources=images.resources,
        note=f"{images.note} α0 is {alpha0:.3g}: {REASON}.",
    )


SCALE = on_every_set(scale)
