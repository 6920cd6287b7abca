"""ICLR 2025 submission, Table 6: HyenaDNA, pretrained and fine-tuned on each task.

    Hardware   pretraining: 8 GPUs; fine-tuning: 1 GPU
    Time       fine-tuning: 100 epochs, up to 6 hours for the largest task; a guess, as no source
               states the time
    Command    make iclr-table6 SCALE=paper CLUSTER=slurm   DRY=1 prints the plan only
    Smoke      make iclr-table6                             smoke/table06.py

The protocol is HyenaDNA's own: one fine-tuning on the whole training set for each task, and the
best test accuracy of all epochs; there is no validation set. DyT with α0 = 1 (Section 2.2) replaces
every LayerNorm. Appendix A.3 lists the pretraining's batch, length, learning rate and weight decay,
and the length of 500 in evaluation; all other settings are those of HyenaDNA's release, with the
network of its GenomicBenchmarks config (d = 128, 2 layers). docs/SETTINGS-DNA.md gives the source
of each value.
"""

from dataclasses import replace

from dyt_hyenadna.config import FineTuning, Pretraining
from dyt_hyenadna.network_config import HyenaNetwork
from matched import Metric, Run, Scale, Table
from recipes.cvpr2025.table06 import (
    ANY_TASK,
    BENCHMARKS,
    HUMAN,
    PRETRAIN_HYENA,
    TUNE_HYENA,
    TUNING,
    resources_of,
    tuned,
)
from recipes.iclr2025.arms import LN_VS_DYT

ROWS = {
    "mouse_enhancers": "dummy_mouse_enhancers_ensembl",
    "coding_vs_intergenic": "demo_coding_vs_intergenomic_seqs",
    "human_vs_worm": "demo_human_or_worm",
    "human_enhancers_cohn": "human_enhancers_cohn",
    "human_enhancers_ensembl": "human_enhancers_ensembl",
    "human_regulatory": "human_ensembl_regulatory",
    "human_nontata_promoters": "human_nontata_promoters",
    "human_ocr_ensembl": "human_ocr_ensembl",
}
"""Row → its task in GenomicBenchmarks."""

NETWORK = HyenaNetwork(width=128, layers=2, max_length=602)
PRETRAINING = Pretraining(
    network=NETWORK,
    data="hg38",
    length=600,
    cut="first",
    predict_n=True,
    epochs=100,
    warmup_epochs=1.0,
    warmup_lr=1e-6,
    batch=1024,
    micro_batch=128,
    lr=1e-3,
    min_lr=1e-4,
    weight_decay=0.2,
    clip_norm=1.0,
    precision="fp16",
    eval_epochs=10,
)
TUNING_CONFIG = FineTuning(
    network=NETWORK,
    data="genomic-benchmarks",
    task=ANY_TASK,
    max_length=500,
    epochs=100,
    warmup_epochs=1.0,
    warmup_lr=1e-6,
    batch=128,
    micro_batch=128,
    lr=6e-4,
    min_lr=6e-5,
    weight_decay=0.1,
    clip_norm=1.0,
    precision="fp16",
)
PRETRAINED = Run(task=PRETRAIN_HYENA, config=PRETRAINING, needs={"genome": HUMAN})


def fine_tuned(
    task: str,
    tuning: FineTuning = TUNING_CONFIG,
    pretrained: Run = PRETRAINED,
    benchmarks: Run = BENCHMARKS,
) -> Run:
    """Fine-tuning of HyenaDNA on one task."""
    return tuned(pretrained, TUNE_HYENA, replace(tuning, task=task), benchmarks)


RUNS = {row: fine_tuned(task) for row, task in ROWS.items()}
RESOURCES = replace(TUNING, minutes=6 * 60, runs_per_job=1)
METRICS = (Metric(key="accuracy", label="accuracy", unit="%", direction="higher"),)

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=RUNS,
    resources=RESOURCES,
    resource_overrides=resources_of(RUNS, tuning=RESOURCES),
)

TABLE = Table(arms=LN_VS_DYT, scales=(PAPER,))
