"""Mini scale of Table 8: two ViTs, of widths 64 and 128 on the digits, or on a folder."""

from matched import Run, Scale
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.cvpr2025.table08 import TABLE, VIT_S
from recipes.mini_images import SEEDS, Images, norms_by_width, on_every_set, vit


def scale(images: Images) -> Scale:
    configs = {"vit_s": vit(VIT_S, images, "vit_s"), "vit_b": vit(VIT_B, images, "vit_b")}
    return Scale(
        name="mini",
        seeds=SEEDS,
        runs={row: Run(task=TASK, config=config) for row, config in configs.items()},
        arm_norms=norms_by_width(
            {row: images.width(row) for row in configs}, {arm.name: arm.norm for arm in TABLE.arms}
        ),
        resources=images.resources,
        resource_overrides={row: images.resources_of(row) for row in configs},
        note=images.note,
    )


SCALE = on_every_set(scale)
