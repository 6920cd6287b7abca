"""CVPR 2025, Table 15: BatchNorm against DyT in two classic ConvNets, ResNet-50 and VGG19.

torchvision's networks with torchvision's reference recipe: SGD for 90 epochs, learning rate 0.1
divided by 10 every 30, batch 256 on 8 GPUs; DyT takes the place of every BatchNorm, with α0 = 0.5,
at the same settings. As everywhere here, parameters of one dimension are not decayed, in both
arms; the reference recipe decays them.

Paper scale: less than a day on 8 V100s for ResNet-50 and about two for VGG19: a guess.

    make table15                                   # smoke scale, on this machine, minutes
    make table15 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make table15 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import Supervised
from matched import Arm, Resources, Run, Scale, Table
from recipes.cvpr2025.table01 import TASK

RESNET50 = Supervised(
    model="torchvision.models:resnet50",
    convert_batch_norm=True,
    data="imagenet",
    epochs=90,
    batch=256,
    micro_batch=32,
    optimizer="sgd",
    lr=0.1,
    schedule="step",
    decay_epochs=30,
    decay_factor=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    precision="tf32",
    interpolation="bilinear",
    eval_interpolation="bilinear",
    rand_augment="",
    mixup=0.0,
    cutmix=0.0,
    erasing=0.0,
    label_smoothing=0.0,
    drop_path=0.0,
)
VGG19 = replace(RESNET50, model="torchvision.models:vgg19_bn")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"resnet50": Run(task=TASK, config=RESNET50), "vgg19": Run(task=TASK, config=VGG19)},
    resources=Resources(gpus=8, cpus=10, memory_gb=48, minutes=48 * 60),
)


def tiny(config: Supervised, model: str) -> Supervised:
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


SMOKE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        "resnet50": Run(task=TASK, config=tiny(RESNET50, "dyt_vision.small:resnet")),
        "vgg19": Run(task=TASK, config=tiny(VGG19, "dyt_vision.small:vgg")),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=8),
    note="Four bottleneck blocks (ResNet) and four convolutions (VGG), on 16 × 16 pixels.",
)

TABLE = Table(
    arms=(Arm(name="BN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=0.5))),
    scales=(SMOKE, PAPER),
)
