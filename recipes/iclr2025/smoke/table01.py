"""Smoke scale of Table 1: CVPR's toy models and a toy MLP-Mixer on the digits."""

from dataclasses import replace

from matched import Run
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table01 import tiny
from recipes.cvpr2025.table01 import TASK
from recipes.iclr2025.table01 import MIXER_B

TINY_MIXER = tiny(
    replace(MIXER_B, model="timm.models.mlp_mixer:MlpMixer"),
    lr=3e-3,
    model_args=(("img_size", 16), ("patch_size", 4), ("num_blocks", 4), ("embed_dim", 64)),
)

SCALE = replace(
    table01.SCALE,
    seeds=(0,),
    runs={**table01.SCALE.runs, "mixer_b": Run(task=TASK, config=TINY_MIXER)},
    note=f"{table01.SCALE.note} MLP-Mixer: 4 blocks of width 64.",
)
