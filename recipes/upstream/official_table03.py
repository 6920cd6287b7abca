"""CVPR 2025, Table 3, by the official script: training of diffusion transformers of three sizes.

    Hardware   8 GPUs
    Needs      site.toml: [upstream] dit, [data] imagenet; diffusers, and the weights of
               stabilityai/sd-vae-ft-ema in its cache, which the script downloads otherwise
    Command    make table FILE=recipes/upstream/official_table03.py SCALE=paper CLUSTER=slurm
    Smoke      make table FILE=recipes/upstream/official_table03.py       the miniature upstream

The command of the README of facebookresearch/DiT for each size, for 80 epochs. The script fixes the
learning rate at 1e-4 and reports the training loss only; the paper's learning rate, its change of
the zero initialization and FID are in ../cvpr2025/table03.py. The script cannot resume: a run that
is interrupted starts from the beginning.
"""

from dyt_upstream.config import Script
from dyt_upstream.upstreams import UPSTREAMS
from matched import Metric, Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.upstream import common

EPOCHS = 80
STEPS_PER_EPOCH = 1_281_167 // 256


def training(model: str) -> Run:
    """Training of one size."""
    config = Script(
        upstream="dit",
        commit=UPSTREAMS["dit"].commit,
        command=(
            *("train.py", "--model", model, "--image-size", "256", "--epochs", f"{EPOCHS}"),
            *("--global-batch-size", "256", "--global-seed", "{seed}"),
            *("--data-path", "{data.imagenet}/train", "--results-dir", "{output}"),
        ),
        metrics=("loss",),
        processes=8,
        total=EPOCHS * STEPS_PER_EPOCH,
        data=("upstream.dit", "imagenet"),
    )
    return Run(task=common.TASK, config=config)


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "dit_b4": training("DiT-B/4"),
        "dit_l4": training("DiT-L/4"),
        "dit_xl2": training("DiT-XL/2"),
    },
    resources=Resources(gpus=8, cpus=10, memory_gb=60, minutes=60 * 60),
    metrics=(Metric(key="loss", label="training loss", direction="lower"),),
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(common.SMOKE, PAPER),
    title="Training of Table 3 by the official script of DiT",
    labels={**common.LABELS, "dit_b4": "DiT-B/4", "dit_l4": "DiT-L/4", "dit_xl2": "DiT-XL/2"},
)
