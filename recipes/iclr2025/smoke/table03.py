"""Smoke scale of Table 3: pixel diffusion of digits, scored with a small classifier's features."""

from dataclasses import replace

from recipes.cvpr2025.smoke import table03
from recipes.cvpr2025.smoke.table03 import SCORE_NOTE, tiny_chain

SCALE = replace(
    table03.SCALE,
    runs={
        "dit_b4": tiny_chain(width=64, depth=2),
        "dit_l2": tiny_chain(patch_size=2, width=64, depth=3),
    },
    note=(
        "Diffusion over the 8 × 8 pixels of the digits, with 2 blocks of width 64 and patch size 4 "
        f"(DiT-B), and 3 blocks of width 64 and patch size 2 (DiT-L). {SCORE_NOTE}"
    ),
)
