"""Smoke scale of Table 6: a toy HyenaDNA pretrained on a synthetic genome, and its eight tasks."""

from dataclasses import replace

from matched import Run, Scale
from recipes.cvpr2025.smoke import table06
from recipes.cvpr2025.smoke.table06 import (
    EMBEDDING_NOTE,
    HYENA,
    SYNTHETIC,
    TASK_NOTE,
    TUNE_HYENA_TASKS,
)
from recipes.cvpr2025.table06 import PRETRAIN_HYENA
from recipes.iclr2025.table06 import METRICS, ROWS, fine_tuned
from recipes.smoke_norms import SMOKE_NORMS

PRETRAINED = Run(task=PRETRAIN_HYENA, config=HYENA, needs={"genome": SYNTHETIC})

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0, 1),
    runs={
        row: fine_tuned(task, TUNE_HYENA_TASKS[task], PRETRAINED, SYNTHETIC)
        for row, task in ROWS.items()
    },
    resources=replace(table06.SCALE.resources, runs_per_job=18),
    note=(
        "HyenaDNA: 2 blocks of width 32. The best test accuracy of all epochs counts. "
        f"{EMBEDDING_NOTE} {TASK_NOTE}"
    ),
    metrics=METRICS,
)
