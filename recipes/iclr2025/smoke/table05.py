"""Smoke scale of Table 5: toy wav2vec 2.0 models pretrained on synthetic speech."""

from dataclasses import replace

from recipes.cvpr2025.smoke import table05
from recipes.cvpr2025.smoke.table05 import TASK_NOTE, tiny
from recipes.iclr2025.table05 import POST, PRE

SCALE = replace(
    table05.SCALE,
    runs={PRE: tiny(pre_norm=True), POST: tiny(pre_norm=False)},
    note=f"2 blocks of width 64, pre-norm and post-norm. {TASK_NOTE}",
)
