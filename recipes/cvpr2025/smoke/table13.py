"""Smoke scale of Table 13: one toy network of each domain at three learning rates."""

from matched import ArmNorms, Metric, Scale
from recipes.cvpr2025.smoke import table01, table02, table03, table05, table06
from recipes.cvpr2025.table13 import row
from recipes.cvpr2025.tuning import resources_of
from recipes.smoke_norms import REASON, SMOKE_NORMS

TOP1 = Metric(key="top1", label="top-1", unit="%", direction="higher")
DNA = "hyenadna"
"""The row whose runs are dear: each has a pretraining and 16 fine-tunings."""
ROWS = {
    "vit_b": (table01.SCALE, TOP1),
    "mae_vit_b": (table02.SCALE, TOP1),
    "dit_b4": (table03.SCALE, table03.SCALE.metrics[0]),
    "wav2vec2_base": (table05.SCALE, table05.SCALE.metrics[0]),
    DNA: (table06.SCALE, table06.SCALE.metrics[0]),
}
"""Row → the table that it is from, and the metric that decides: a cheap row of each domain."""
METRICS = tuple({metric.key: metric for _, metric in ROWS.values()}.values())
RESOURCES = {
    path: resources
    for path, resources in resources_of(scale for scale, _ in ROWS.values()).items()
    if path.split("/")[0] in ROWS
}
FACTORS = dict.fromkeys(ROWS, (0.5, 1, 2)) | {DNA: (0.5, 1)}
DYT = SMOKE_NORMS.norms["DyT"]

SCALE = Scale(
    name="smoke",
    arm_norms=ArmNorms(norms={"DyT (original)": DYT, "DyT (tuned)": DYT}, reason=REASON),
    seeds=(0,),
    runs={
        name: row(scale, name, metric.key, FACTORS[name]) for name, (scale, metric) in ROWS.items()
    },
    resources=table01.SCALE.resources,
    resource_overrides=RESOURCES,
    note=(
        "One cheap row of each domain at half, once and twice the learning rate of its own table "
        "at this scale, where the models are described; HyenaDNA at half and once only, because "
        "each of its cells has a pretraining and 16 fine-tunings."
    ),
    metrics=METRICS,
)
