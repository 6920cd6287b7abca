"""ICLR 2025 submission, Table 11: BN, LN and DyT in ResNet-50, VGG16 and ViT-B.

    Hardware   8 GPUs for the ConvNets, 64 for ViT-B
    Time       as CVPR's Tables 15 and 1
    Command    make iclr-table11 SCALE=paper CLUSTER=slurm  DRY=1 prints the plan only
    Smoke      make iclr-table11                            smoke/table11.py

Each network is trained with its own norm and with the two others instead: LN in a ConvNet
normalizes the channels at each position, BN in a ViT normalizes each channel over batch and tokens.
The ConvNets use torchvision's reference recipe (as CVPR's Table 15), ViT-B that of Table 1. α0 = 1
(Section 2.2). In the paper ResNet-50 with LN and ViT-B with BN diverge.
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Run, Scale, Table, derive_run
from recipes.cvpr2025 import table01, table15
from recipes.cvpr2025.table15 import RESNET50, TASK
from recipes.iclr2025.arms import ALPHA0

ARMS = ("BN", "LN", "DyT")


def row(run: Run, *, own_norm: str, alpha0: float = ALPHA0) -> dict[str, Run]:
    """The three arms of a network; the one with its own norm shares its run with other tables."""
    norms = {"BN": Norm.batch_norm(), "LN": Norm.layer_norm(), "DyT": Norm.dyt(alpha0=alpha0)}
    norms[own_norm] = Norm.own()
    return {arm: derive_run(run, norm=norm) for arm, norm in norms.items()}


VGG16 = replace(RESNET50, model="torchvision.models:vgg16_bn")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "resnet50": row(Run(task=TASK, config=RESNET50), own_norm="BN"),
        "vgg16": row(Run(task=TASK, config=VGG16), own_norm="BN"),
        "vit_b": row(table01.PAPER.runs["vit_b"], own_norm="LN"),
    },
    resources=table15.PAPER.resources,
    resource_overrides={"vit_b": table01.PAPER.resources},
)

TABLE = Table(arms=tuple(Arm(name=arm) for arm in ARMS), scales=(PAPER,))
