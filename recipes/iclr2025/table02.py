"""ICLR 2025 submission, Table 2: MAE encoders fine-tuned, DINO encoders linearly probed.

Pretraining is that of CVPR's Table 2 (with LN the same runs), with α0 = 1 (Section 2.2). Appendix
A.3 lists for MAE's fine-tuning 50 epochs and a base learning rate of 1e-3 for both sizes, and a
batch size of 16: the release's commands for large models, with 16 images on each of 64 GPUs, whose
layer decay of 0.75 is taken with them. DINO is probed as its release does: SGD, 100 epochs, class
token and mean patch of the last block.

Paper scale: after the pretraining, fine-tuning takes 7 to 9 hours on 32 V100s by MAE's release;
the time of probing is a guess.

    make iclr-table2                                   # smoke scale, on this machine, minutes
    make iclr-table2 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make iclr-table2 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from dyt_vision.config import DINO, Probing
from matched import Arm, Resources, Run, Scale, Table
from recipes.cvpr2025 import table02
from recipes.cvpr2025.table02 import (
    B8,
    B16,
    DINO_B8,
    DINO_B16,
    FINE_TUNE_B,
    FINE_TUNE_L,
    MAE_B,
    MAE_L,
    PRETRAIN_DINO,
    TINY,
    mae,
    rate,
    tiny_dino,
    tiny_mae,
    tiny_tuning,
)

PROBE = "dyt_vision.probing:train"

TUNE_B = replace(FINE_TUNE_B, epochs=50, lr=rate(1e-3, 1024), layer_decay=0.75)

PROBE_B16 = Probing(
    data="imagenet",
    epochs=100,
    batch=1024,
    micro_batch=128,
    lr=rate(1e-3, 1024),
    weight_decay=0.0,
    interpolation="bilinear",
)
PROBE_B8 = replace(PROBE_B16, patch_size=8)


def probe(pretraining: DINO, probing: Probing) -> Run:
    """Probing, and the pretraining that it needs."""
    need = Run(task=PRETRAIN_DINO, config=pretraining)
    return Run(task=PROBE, config=probing, needs={"pretrained": need})


PROBING = Resources(gpus=8, cpus=10, memory_gb=48, minutes=24 * 60)
PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "mae_vit_b": mae(MAE_B, TUNE_B),
        "mae_vit_l": mae(MAE_L, FINE_TUNE_L),
        "dino_b16": probe(DINO_B16, PROBE_B16),
        "dino_b8": probe(DINO_B8, PROBE_B8),
    },
    resources=table02.PAPER.resources,
    resource_overrides={
        **table02.PAPER.resource_overrides,
        "dino_b16": PROBING,
        "dino_b8": PROBING,
    },
)


def tiny_probe(config: Probing, **size: int) -> Probing:
    return replace(
        config,
        **{**TINY, **size},
        width=64,
        heads=4,
        epochs=10,
        lr=0.05,
        crop_scale=(0.7, 1.0),
        eval_epochs=5,
    )


SMOKE = Scale(
    name="smoke",
    seeds=(0,),
    runs={
        "mae_vit_b": mae(tiny_mae(MAE_B, depth=4), tiny_tuning(TUNE_B, depth=4)),
        "mae_vit_l": mae(tiny_mae(MAE_L, depth=6), tiny_tuning(FINE_TUNE_L, depth=6)),
        "dino_b16": probe(tiny_dino(DINO_B16, **B16, local_size=12), tiny_probe(PROBE_B16, **B16)),
        "dino_b8": probe(tiny_dino(DINO_B8, **B8, local_size=8), tiny_probe(PROBE_B8, **B8)),
    },
    resources=table02.SMOKE.resources,
    note=f"{table02.SMOKE.note} Probes see all labels.",
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=1.0))),
    scales=(SMOKE, PAPER),
)
