"""Mini scale of Table 1: ViTs and ConvNeXts of widths 32 to 384, on the digits or on a folder.

    Command    make table1 SCALE=mini, with SET=data=cifar100 or SET=data=tiny-imagenet on a folder
    Time       7 hours on one core: 10 runs each of 8, 15, 8 and 11 minutes (estimated)

It has not been run yet.
"""

from matched import Run, Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.table01 import CONVNEXT_B, CONVNEXT_L, TASK, VIT_B, VIT_L
from recipes.mini_images import SEEDS, Images, convnext, norms_by_width, on_every_set, vit


def scale(images: Images) -> Scale:
    configs = {
        "vit_b": vit(VIT_B, images, "vit_b"),
        "vit_l": vit(VIT_L, images, "vit_l"),
        "convnext_b": convnext(CONVNEXT_B, images, "convnext_b"),
        "convnext_l": convnext(CONVNEXT_L, images, "convnext_l"),
    }
    return Scale(
        name="mini",
        seeds=SEEDS,
        runs={row: Run(task=TASK, config=config) for row, config in configs.items()},
        arm_norms=norms_by_width({row: images.width(row) for row in configs}, {DYT.name: DYT.norm}),
        resources=images.resources,
        resource_overrides={row: images.resources_of(row) for row in configs},
        note=images.note,
    )


SCALE = on_every_set(scale)
