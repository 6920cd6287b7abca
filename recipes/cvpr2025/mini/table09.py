"""Mini scale of Table 9: Table 8's ViT-B with and without α, on the digits or on a folder.

    Command    make table9 SCALE=mini, with SET=data=cifar100 or SET=data=tiny-imagenet on a folder
    Time       2 hours on one core for the 15 runs without α; the others are Table 8's (estimated)
    Expected   without_alpha: tanh 96.9 (94.4 to 99.3), hardtanh 97.4 (96.0 to 98.8),
               sigmoid 94.7 (94.0 to 95.4)

These are top-1 of the seeds 0 to 2 (one core of an Intel Xeon, 2026-11-27). With α minus without it
is undecided: tanh +0.8 points (-2.2 to +3.8), hardtanh -0.7 (-2.5 to +1.0), sigmoid +1.6 (-0.6 to
+3.8). docs/LOG.md has more.
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
