"""Smoke scale of Table 2: toy encoders pretrained, fine-tuned and probed on the digits."""

from dataclasses import replace

from dyt_vision.config import Probing
from matched import Scale
from recipes.cvpr2025.smoke import table02
from recipes.cvpr2025.smoke.table02 import B8, B16, TINY, tiny_dino, tiny_mae, tiny_tuning
from recipes.cvpr2025.table02 import DINO_B8, DINO_B16, FINE_TUNE_L, MAE_B, MAE_L, mae
from recipes.iclr2025.table02 import PROBE_B8, PROBE_B16, TUNE_B, probe
from recipes.smoke_norms import SMOKE_NORMS


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


SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={
        "mae_vit_b": mae(tiny_mae(MAE_B, depth=4), tiny_tuning(TUNE_B, depth=4)),
        "mae_vit_l": mae(tiny_mae(MAE_L, depth=6), tiny_tuning(FINE_TUNE_L, depth=6)),
        "dino_b16": probe(tiny_dino(DINO_B16, **B16, local_size=12), tiny_probe(PROBE_B16, **B16)),
        "dino_b8": probe(tiny_dino(DINO_B8, **B8, local_size=8), tiny_probe(PROBE_B8, **B8)),
    },
    resources=table02.SCALE.resources,
    note=f"{table02.SCALE.note} Linear probes are trained on all labels.",
)
