"""Mini scale of Table 1: CVPR's networks and an MLP-Mixer, on the digits or on a folder."""

from dataclasses import replace

from matched import Run, Scale
from recipes.cvpr2025.mini import table01
from recipes.cvpr2025.table01 import TASK
from recipes.iclr2025.arms import DYT
from recipes.iclr2025.table01 import MIXER_B
from recipes.mini_images import Images, mixer, norms_by_width, on_every_set


def scale(images: Images) -> Scale:
    cvpr = table01.scale(images)
    runs = {
        **cvpr.runs,
        "mixer_b": Run(task=TASK, config=mixer(MIXER_B, images, "mixer_b")),
    }
    widths = {row: images.width(row) for row in runs}
    return replace(
        cvpr,
        runs=runs,
        arm_norms=norms_by_width(widths, {DYT.name: DYT.norm}),
        resource_overrides={row: images.resources_of(row) for row in runs},
    )


SCALE = on_every_set(scale)
