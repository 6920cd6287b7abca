"""α and 1/std of the inputs of ViT-B's DyT layers after each epoch: CVPR 2025, Figure 7.

    Hardware   as Table 1's ViT-B: one run on 64 GPUs
    Command    make fig7 SCALE=paper CLUSTER=slurm
    Smoke      make fig7

The training is Table 1's, with the same steps; it is another run because it evaluates after each
epoch and records the layers' inputs on one batch of held-out images each time.
"""

from dataclasses import replace

from matched import Arm, Metric, Run, Scale, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.smoke import table01 as smoke01
from recipes.smoke_norms import SMOKE_NORMS

TASK = "dyt_vision.norm_layers:train_and_record"
METRICS = (Metric(key="top1", label="top-1", unit="%", direction="higher"),)


def recorded(run: Run) -> Run:
    return Run(task=TASK, config=replace(run.config, eval_epochs=1))


SMOKE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={"vit_b": recorded(smoke01.SCALE.runs["vit_b"])},
    resources=smoke01.SCALE.resources,
    metrics=METRICS,
)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={"vit_b": recorded(table01.PAPER.runs["vit_b"])},
    resources=table01.PAPER.resources,
    metrics=METRICS,
)

TABLE = Table(
    title="α and 1/std after each epoch",
    labels={"vit_b": "ViT-B"},
    arms=(Arm(name=DYT.name, norm=DYT.norm),),
    scales=(SMOKE, PAPER),
)
