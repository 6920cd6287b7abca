"""ICLR 2025 submission, Table 1: ViT, ConvNeXt and MLP-Mixer on ImageNet-1K, LN against DyT.

One recipe (the paper's Table 9), which the later paper kept: with LN, ViT and ConvNeXt have the
runs of its Table 1. Here α0 is 1 (Section 2.2), there it is 0.5. Table 9 has no column for ViT-L;
it is trained as in the authors' release. Mixer-B has gradients clipped to norm 1, as the table
says.

Paper scale: by its operations about 2.5 hours on 64 A100s for Mixer-B; see the other table for the
rest.

    make iclr-table1                                   # smoke scale, on this machine, minutes
    make iclr-table1 SCALE=paper CLUSTER=slurm DRY=1   # what the real one would submit
    make iclr-table1 SCALE=paper CLUSTER=slurm
"""

from dataclasses import replace

from dyt import Norm
from matched import Arm, Run, Table
from recipes.cvpr2025 import table01
from recipes.cvpr2025.table01 import TASK, VIT_B, tiny

MIXER_B = replace(VIT_B, model="mixer_b16_224", model_args=(), clip_norm=1.0)
TINY_MIXER = tiny(
    replace(MIXER_B, model="timm.models.mlp_mixer:MlpMixer"),
    lr=3e-3,
    model_args=(("img_size", 16), ("patch_size", 4), ("num_blocks", 4), ("embed_dim", 64)),
)

PAPER = replace(
    table01.PAPER, runs={**table01.PAPER.runs, "mixer_b": Run(task=TASK, config=MIXER_B)}
)
SMOKE = replace(
    table01.SMOKE,
    seeds=(0,),
    runs={**table01.SMOKE.runs, "mixer_b": Run(task=TASK, config=TINY_MIXER)},
    note=f"{table01.SMOKE.note} MLP-Mixer: 4 blocks of width 64.",
)

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(alpha0=1.0))),
    scales=(SMOKE, PAPER),
)
