"""CVPR 2025, Table 15: BatchNorm against DyT in two classic ConvNets, ResNet-50 and VGG19.

    Hardware   8 GPUs, 32 images on each
    Time       under a day on 8 V100s for ResNet-50, about two for VGG19 (a guess)
    Command    make table15 SCALE=paper CLUSTER=slurm       DRY=1 prints the plan only
    Smoke      make table15                                 smoke/table15.py

torchvision's networks with torchvision's reference recipe: SGD for 90 epochs, learning rate 0.1
divided by 10 every 30 epochs, batch 256. DyT with α0 = 0.5 replaces every BatchNorm at the same
settings. As in all tables of this project, one-dimensional parameters are not decayed, in both
arms; torchvision's reference recipe decays them.
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import Supervised
from matched import Arm, Resources, Run, Scale, Table
from recipes.cvpr2025.arms import DYT
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

TABLE = Table(arms=(Arm(name="BN", norm=Norm.own()), DYT), scales=(PAPER,))
