"""Mini scale of Table 3: CVPR's diffusion transformers on the pixels of digits.

    Command    make iclr-table3 SCALE=mini
    Time       none: all runs are those of CVPR's Table 3, DiT-L/2's those of its DiT-XL/2

It has not been run yet.
"""

from dataclasses import replace

from recipes.cvpr2025.arms import DYT
from recipes.cvpr2025.mini import table03
from recipes.cvpr2025.mini.table03 import CPU_MINUTES, PIXELS, RUNS, SCORED, WIDTHS, overrides
from recipes.mini_images import norms_by_width

CVPR_ROWS = {"dit_b4": "dit_b4", "dit_l2": "dit_xl2"}

SCALE = replace(
    table03.SCALE,
    arm_norms=norms_by_width(
        {row: WIDTHS[same] for row, same in CVPR_ROWS.items()}, {DYT.name: DYT.norm}
    ),
    runs={row: RUNS[same] for row, same in CVPR_ROWS.items()},
    resource_overrides=overrides({row: CPU_MINUTES[same] for row, same in CVPR_ROWS.items()}),
    note=(
        f"{PIXELS}, with 4 blocks of width 64 and patch size 4 (DiT-B), and 6 blocks of width 128 "
        f"and patch size 2 (DiT-L). {SCORED}"
    ),
)
