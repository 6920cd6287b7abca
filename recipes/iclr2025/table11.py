"""ICLR 2025 submission, Table 11: BN, LN and DyT in ResNet-50, VGG16 and ViT-B.

The network's own norm, or one of the others in its place: LN in a ConvNet normalises the channels
of each position, BN in a ViT each channel over batch and tokens. ConvNets are trained with
torchvision's reference recipe (as in CVPR's Table 15), ViT-B as in Table 1. α0 = 1 (Section
2.2). In the paper ResNet-50 with LN and ViT-B with BN diverge.

Paper scale: as CVPR's Tables 15 and 1.

    make iclr-table11                                   # smoke scale, on this machine, minutes
    make iclr-table11 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make iclr-table11 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Run, Scale, Table, derive_run
from recipes.cvpr2025 import table01, table15
from recipes.cvpr2025.table15 import RESNET50, TASK, tiny

NORMS = {"BN": Norm.batch_norm(), "LN": Norm.layer_norm(), "DyT": Norm.dyt(alpha0=1.0)}


def row(run: Run, own: str) -> dict[str, Run]:
    """A row of a network whose own norm is ``own``: that run is another table's too."""
    norms = {**NORMS, own: Norm.own()}
    return {arm: derive_run(run, norm=norm) for arm, norm in norms.items()}


VGG16 = replace(RESNET50, model="torchvision.models:vgg16_bn")

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "resnet50": row(Run(task=TASK, config=RESNET50), own="BN"),
        "vgg16": row(Run(task=TASK, config=VGG16), own="BN"),
        "vit_b": row(table01.PAPER.runs["vit_b"], own="LN"),
    },
    resources=table15.PAPER.resources,
    resource_overrides={"vit_b": table01.PAPER.resources},
)

SMOKE = Scale(
    name="smoke",
    seeds=(0, 1),
    runs={
        "resnet50": row(table15.SMOKE.runs["resnet50"], own="BN"),
        "vgg16": row(Run(task=TASK, config=tiny(VGG16, "dyt_vision.small:vgg")), own="BN"),
        "vit_b": row(table01.SMOKE.runs["vit_b"], own="LN"),
    },
    resources=table15.SMOKE.resources,
    note=f"{table15.SMOKE.note} ViT: 4 blocks of width 64.",
)

TABLE = Table(arms=tuple(Arm(name=arm) for arm in NORMS), scales=(SMOKE, PAPER))
