"""ICLR 2025 submission, Table 2: MAE encoders fine-tuned, DINO encoders linearly probed.

    Hardware   pretraining as CVPR's Table 2; fine-tuning: 32 GPUs; probing: 8 GPUs
    Time       fine-tuning: 7 to 9 hours on 32 V100s (MAE's release); probing: a guess
    Command    make iclr-table2 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table2                             smoke/table02.py

Pretraining is that of CVPR's Table 2, with α0 = 1 (Section 2.2); the LN runs are shared with it.
For MAE's fine-tuning, Appendix A.3 lists 50 epochs and a base learning rate of 1e-3 for both sizes,
and a batch size of 16: those are the release's commands for large models, with 16 images on each of
64 GPUs, so the release's layer decay of 0.75 is used with them. DINO is probed as in its release:
SGD, 100 epochs, class token and mean patch token of the last block.
"""

from dataclasses import replace

from dyt_vision.config import DINO, Probing
from matched import Resources, Run, Scale, Table
from recipes.cvpr2025 import table02
from recipes.cvpr2025.table02 import (
    DINO_B8,
    DINO_B16,
    FINE_TUNE_B,
    FINE_TUNE_L,
    MAE_B,
    MAE_L,
    PRETRAIN_DINO,
    mae,
    rate,
)
from recipes.iclr2025.arms import LN_VS_DYT

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
    """Linear probing of an encoder that DINO pretrains."""
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

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
