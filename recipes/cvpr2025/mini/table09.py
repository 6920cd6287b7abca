"""Mini scale of Table 9: Table 8's ViT-B with and without α, on the digits or on a folder.

    Command    make table9 SCALE=mini, with SET=data=cifar100 or SET=data=tiny-imagenet on a folder
    Time       2 hours on one core for the 15 runs without α; the others are Table 8's (estimated)

It has not been run yet.
"""

from dyt import suggested_alpha0
from dyt_vision.config import Supervised
from matched import Run, Scale
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table09 import FUNCTIONS, alpha_rows
from recipes.mini_images import REASON, SEEDS, Images, on_every_set, vit


def alpha_scale(images: Images, config: Supervised, row: str, functions: tuple[str, ...]) -> Scale:
    """The scale with and without α of the ViT that the image set has for a row of Table 8."""
    alpha0 = suggested_alpha0(images.width(row))
    run = Run(task=TASK, config=vit(config, images, row))
    return Scale(
        name="mini",
        seeds=SEEDS,
        runs=alpha_rows(run, functions, alpha0=alpha0),
        resources=images.resources_of(row),
        note=f"{images.note} α0 is {alpha0:.3g}: {REASON}.",
    )


SCALE = on_every_set(lambda images: alpha_scale(images, VIT_B, "vit_b", FUNCTIONS))
