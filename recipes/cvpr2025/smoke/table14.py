"""Smoke scale of Table 14: one toy network of each domain at three α0."""

from matched import ArmNorms, Scale
from recipes.cvpr2025.smoke import table01
from recipes.cvpr2025.smoke.table13 import DNA, DYT, METRICS, RESOURCES, ROWS
from recipes.cvpr2025.table14 import row
from recipes.smoke_norms import ALPHA0, REASON

VALUES = dict.fromkeys(ROWS, (ALPHA0 / 2, ALPHA0, 2 * ALPHA0)) | {DNA: (ALPHA0 / 2, ALPHA0)}

SCALE = Scale(
    name="smoke",
    arm_norms=ArmNorms(norms={"DyT (original)": DYT}, reason=REASON),
    seeds=(0,),
    runs={
        name: row(scale, name, metric.key, VALUES[name], ALPHA0)
        for name, (scale, metric) in ROWS.items()
    },
    resources=table01.SCALE.resources,
    resource_overrides=RESOURCES,
    note=(
        f"One cheap row of each domain at half, once and twice the α0 of {ALPHA0:g} that its own "
        "table has at this scale, where the models are described; HyenaDNA at half and once only, "
        "because each of its cells has a pretraining and 16 fine-tunings."
    ),
    metrics=METRICS,
)
