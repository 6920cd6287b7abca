"""Mini scale of Table 2: encoders of width 128 and 192, fine-tuned or probed on the digits.

The pretraining is that of CVPR's Table 2. Nothing has been tuned or run at this scale.
"""

from dataclasses import replace

from dyt_vision.config import Probing
from matched import Run
from recipes.cvpr2025.mini import table02
from recipes.cvpr2025.mini.table02 import B8, B16, DIGITS_B8, MAE_SIZES, mini_tuning
from recipes.iclr2025.smoke.table02 import tiny_probe
from recipes.iclr2025.table02 import PROBE, PROBE_B8, PROBE_B16, TUNE_B
from recipes.mini_images import DIGITS, Images, Size

CVPR = table02.SCALE.runs


def probed(row: str, config: Probing, images: Images, size: Size) -> Run:
    """Linear probing of the encoder that a row of CVPR's Table 2 pretrains."""
    tiny = tiny_probe(
        config, depth=size.depth, image_size=images.image_size, patch_size=images.patch_size
    )
    probing = replace(tiny, width=size.width, heads=size.heads, epochs=50, eval_epochs=10)
    return Run(task=PROBE, config=probing, needs=CVPR[row].needs)


SCALE = replace(
    table02.SCALE,
    runs={
        "mae_vit_b": replace(
            CVPR["mae_vit_b"], config=mini_tuning(TUNE_B, DIGITS, MAE_SIZES["mae_vit_b"])
        ),
        "mae_vit_l": CVPR["mae_vit_l"],
        "dino_b16": probed("dino_b16", PROBE_B16, DIGITS, B16),
        "dino_b8": probed("dino_b8", PROBE_B8, DIGITS_B8, B8),
    },
    note=f"{table02.SCALE.note} Linear probes are trained on all labels.",
)
