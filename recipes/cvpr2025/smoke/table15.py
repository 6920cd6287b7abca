"""Smoke scale of Table 15: toy ConvNets on the digits."""

from dataclasses import replace

from dyt_vision.config import Supervised
from matched import Resources, Run, Scale
from recipes.cvpr2025.table01 import TASK
from recipes.cvpr2025.table15 import RESNET50, VGG19
from recipes.smoke_norms import SMOKE_NORMS


def tiny(config: Supervised, model: str) -> Supervised:
    """The recipe on the digits, for a toy model."""
    return replace(
        config,
        model=model,
        data="digits",
        image_size=16,
        epochs=9,
        decay_epochs=3,
        batch=32,
        micro_batch=32,
        lr=0.05,
        precision="fp32",
        crop_scale=(0.7, 1.0),
        crop_ratio=1.0,
        flip=0.0,
        eval_epochs=3,
        eval_batch=360,
        log_steps=44,
    )


SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0, 1),
    runs={
        "resnet50": Run(task=TASK, config=tiny(RESNET50, "dyt_vision.small:resnet")),
        "vgg19": Run(task=TASK, config=tiny(VGG19, "dyt_vision.small:vgg")),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    note="Toy models: four bottleneck blocks (ResNet), four convolutions (VGG); 16 × 16 pixels.",
)
