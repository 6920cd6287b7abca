"""Smoke scale of Table 6: toy networks pretrained on a synthetic genome, scored on eight tasks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.config import BenchmarkScore
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.preparation_config import Preparation
from matched import Resources, Run, Scale
from recipes.cvpr2025.table06 import (
    CADUCEUS_PRETRAINING,
    CADUCEUS_TUNING,
    HYENA_PRETRAINING,
    HYENA_TUNING,
    METRICS,
    PREPARE,
    PRETRAIN_CADUCEUS,
    PRETRAIN_HYENA,
    SCORE,
    TUNE_CADUCEUS,
    TUNE_HYENA,
    task_score,
)
from recipes.smoke_norms import SMOKE_NORMS

SYNTHETIC = Run(task=PREPARE, config=Preparation(data="synthetic-genome"))
SPLITS = (1, 2)
LENGTH = 64
EMBEDDING_STD = 0.5
"""Standard deviation of the initial embedding. In toy networks DyT stays at the unigram entropy
with the official 0.02, and with 0.1 even at the α0 of ``SMOKE_NORMS``; with 1 LN learns slowly,
because the embedding is also the output layer."""

TINY_HYENA = HyenaNetwork(
    width=32, layers=2, max_length=LENGTH + 2, dropout=0.0, embedding_std=EMBEDDING_STD
)
TINY_CADUCEUS = CaduceusNetwork(
    width=16, layers=2, variant="ps", d_state=4, embedding_std=EMBEDDING_STD
)

TINY: dict[str, Any] = {
    "data": "synthetic-genome",
    "batch": 32,
    "micro_batch": 32,
    "min_lr": 0.0,
    "warmup_lr": 0.0,
    "precision": "fp32",
}
"""Changes of every run at smoke scale."""
TINY_PRETRAINING = {**TINY, "length": LENGTH, "cut": "random", "eval_samples": 128}
TINY_TUNING = {**TINY, "max_length": LENGTH, "warmup_prefix": True}

HYENA = replace(
    HYENA_PRETRAINING,
    **{**TINY_PRETRAINING, "batch": 64, "micro_batch": 64},
    network=TINY_HYENA,
    steps=600,
    warmup_steps=80,
    lr=3e-3,
    eval_steps=600,
)
"""With a rate of 5e-3 DyT's loss jumps in the warm-up and, with some seeds, stays where it is."""
CADUCEUS = replace(
    CADUCEUS_PRETRAINING,
    **{**TINY_PRETRAINING, "batch": 16, "micro_batch": 16},
    network=TINY_CADUCEUS,
    steps=600,
    warmup_steps=60,
    lr=8e-3,
    eval_steps=600,
)
TUNE_TINY_HYENA = replace(
    HYENA_TUNING,
    **TINY_TUNING,
    network=TINY_HYENA,
    epochs=6,
    warmup_epochs=1.0,
    lr=1e-3,
    flip=0.5,
    eval_epochs=2,
)
"""With a rate of 3e-3 LN unlearns what it was pretrained on, and some tasks stay at chance."""
LONG: dict[str, Any] = {"epochs": 14, "warmup_epochs": 2.0, "eval_epochs": 7}
HYENA_CHANGES: dict[str, dict[str, Any]] = {
    "dummy_mouse_enhancers_ensembl": LONG,  # few sequences
    "demo_coding_vs_intergenomic_seqs": LONG,  # codons
    "human_enhancers_ensembl": LONG,  # the distance of words
    "human_enhancers_cohn": {"epochs": 8},
}
"""Tasks that HyenaDNA is fine-tuned on for longer."""
TUNE_HYENA_TASKS = {
    task: replace(TUNE_TINY_HYENA, task=task, **HYENA_CHANGES.get(task, {})) for task in TASKS
}
TUNE_TINY_CADUCEUS = replace(
    CADUCEUS_TUNING,
    **{**TINY_TUNING, "batch": 16, "micro_batch": 16},
    network=TINY_CADUCEUS,
    epochs=3,
    warmup_epochs=0.4,
    lr=6e-3,
    eval_epochs=1,
)
CADUCEUS_CHANGES: dict[str, dict[str, Any]] = {
    "human_enhancers_cohn": {"epochs": 4, "eval_epochs": 2},
    "human_enhancers_ensembl": {"epochs": 4, "eval_epochs": 2},
    "demo_human_or_worm": {"epochs": 2},
    "human_ensembl_regulatory": {"epochs": 2},
    "human_nontata_promoters": {"epochs": 2},
    "human_ocr_ensembl": {"epochs": 2},
}
"""Tasks that Caduceus is fine-tuned on for longer, because with DyT it learns them last, or for
shorter, because both arms learn them first."""
TUNE_CADUCEUS_TASKS = {
    task: replace(TUNE_TINY_CADUCEUS, task=task, **CADUCEUS_CHANGES.get(task, {})) for task in TASKS
}


def chain(pretrain: str, pretraining: Any, tune: str, tunings: Mapping[str, Any]) -> Run:
    """The chain of a row on the synthetic genome, with one setting of each task."""
    need = Run(task=pretrain, config=pretraining, needs={"genome": SYNTHETIC})
    scores = {
        task: task_score(need, tune, tuning, SYNTHETIC, SPLITS) for task, tuning in tunings.items()
    }
    return Run(task=SCORE, config=BenchmarkScore(), needs=scores)


TASK_NOTE = (
    "The tasks have the names and classes of GenomicBenchmarks; their classes differ in planted "
    "words of the same composition, in the order or the distance of two words, or in codons. "
    "Chance is 50 % (33 % in human_ensembl_regulatory)."
)

EMBEDDING_NOTE = (
    f"Embeddings start with standard deviation {EMBEDDING_STD} in both arms, because DyT stays at "
    "the unigram entropy with the official 0.02."
)

SCALE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={
        "hyenadna": chain(PRETRAIN_HYENA, HYENA, TUNE_HYENA, TUNE_HYENA_TASKS),
        "caduceus": chain(PRETRAIN_CADUCEUS, CADUCEUS, TUNE_CADUCEUS, TUNE_CADUCEUS_TASKS),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=2, runs_per_job=50),
    note=(
        "HyenaDNA: 2 blocks of width 32. Caduceus: the PS variant, 2 blocks of width 16 with 4 "
        "states per channel. Two splits of each task, one setting of its fine-tuning, 64 bases. "
        f"{EMBEDDING_NOTE} "
        f"{TASK_NOTE}"
    ),
    metrics=METRICS,
)
