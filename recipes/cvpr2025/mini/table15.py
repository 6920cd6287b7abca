"""Mini scale of Table 15: small ConvNets on the digits, for the paper's 90 epochs.

The learning rate is that of smoke scale. Nothing has been tuned or run at this scale.
"""

from dataclasses import replace

from dyt_vision.config import Supervised
from matched import Run, Scale
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.smoke.table15 import tiny
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table15 import RESNET50, VGG19
from recipes.mini_images import DIGITS, SEEDS, norms_by_width

RESNET_WIDTH, VGG_WIDTH = 16, 32
WIDTHS = {"resnet50": 16 * RESNET_WIDTH, "vgg19": 4 * VGG_WIDTH}
"""Row → the width that gives α0: channels of the third stage's blocks, and of the last layers."""


def small(config: Supervised, model: str, width: int) -> Supervised:
    """The recipe on the digits, for a network of this width in its first layers."""
    return replace(
        tiny(config, model),
        model_args=(("width", width),),
        epochs=90,
        decay_epochs=30,
        batch=64,
        micro_batch=64,
        eval_epochs=15,
        log_steps=22,
    )


SCALE = Scale(
    name="mini",
    seeds=SEEDS,
    runs={
        "resnet50": Run(task=TASK, config=small(RESNET50, "dyt_vision.small:resnet", RESNET_WIDTH)),
        "vgg19": Run(task=TASK, config=small(VGG19, "dyt_vision.small:vgg", VGG_WIDTH)),
    },
    arm_norms=norms_by_width(WIDTHS, {DYT.name: DYT.norm}),
    resources=replace(DIGITS.resources, cpu_minutes=4),
    note=(
        "Four bottleneck blocks of 64 to 512 channels (ResNet), four convolutions of 32 to 128 "
        "(VGG); digits of 16 × 16 pixels for 90 epochs."
    ),
)
