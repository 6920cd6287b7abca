"""ICLR 2025 submission, Table 1: ViT, ConvNeXt and MLP-Mixer on ImageNet-1K, LN against DyT.

    Hardware   64 GPUs, as CVPR's Table 1
    Time       2.5 hours for Mixer-B on 64 A100s (estimated from operation counts, not measured);
               the others as CVPR's Table 1
    Command    make iclr-table1 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table1                             smoke/table01.py

The recipe is the paper's Table 9, which the CVPR paper kept: the LN runs of ViT and ConvNeXt are
shared with CVPR's Table 1. α0 is 1 here (Section 2.2) and 0.5 there. Table 9 has no column for
ViT-L, which is trained as in the authors' release. Gradients of Mixer-B are clipped to norm 1, as
the table says.
"""

from dataclasses import replace

from matched import Run, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.table01 import TASK, VIT_B
from recipes.iclr2025.arms import LN_VS_DYT

MIXER_B = replace(VIT_B, model="mixer_b16_224", model_args=(), clip_norm=1.0)

PAPER = replace(
    table01.PAPER, runs={**table01.PAPER.runs, "mixer_b": Run(task=TASK, config=MIXER_B)}
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
