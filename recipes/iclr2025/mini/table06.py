"""Mini scale of Table 6: HyenaDNA on chromosomes of Arabidopsis, with two tasks."""

from dataclasses import replace

from matched import Run, Scale
from recipes.cvpr2025.mini import table06
from recipes.cvpr2025.mini.table06 import ARABIDOPSIS, SHORT, TASK_NOTE
from recipes.cvpr2025.table06 import PRETRAIN_HYENA
from recipes.iclr2025.table06 import METRICS, PRETRAINING, TUNING_CONFIG, fine_tuned

PRETRAINED = Run(
    task=PRETRAIN_HYENA,
    config=replace(PRETRAINING, **SHORT, epochs=None, warmup_epochs=0.0, eval_epochs=1),
    needs={"genome": ARABIDOPSIS},
)
TUNING = replace(TUNING_CONFIG, data="arabidopsis", epochs=4, warmup_epochs=0.2)
ROWS = {
    "coding_vs_intergenic": "arabidopsis_coding_vs_intergenic",
    "human_vs_worm": "arabidopsis_species",
}
"""Row → its task at this scale."""

SCALE = Scale(
    name="mini",
    seeds=(0, 1),
    runs={row: fine_tuned(task, TUNING, PRETRAINED, ARABIDOPSIS) for row, task in ROWS.items()},
    resources=table06.SCALE.resources,
    note=(
        "The network of paper scale. The row Human vs Worm has the species of Arabidopsis. "
        f"{TASK_NOTE} The best test accuracy of all epochs counts."
    ),
    metrics=METRICS,
)
