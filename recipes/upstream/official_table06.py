"""CVPR 2025, Table 6, by the official trainer: pretraining of HyenaDNA and Caduceus on hg38.

    Hardware   8 GPUs
    Needs      site.toml: [upstream] caduceus, [data] hg38; the environment of Caduceus's README
               (mamba-ssm and flash-attn need a GPU)
    Command    make table FILE=recipes/upstream/official_table06.py SCALE=paper CLUSTER=slurm
    Smoke      make table FILE=recipes/upstream/official_table06.py       the miniature upstream

The commands of slurm_scripts/run_pretrain_hyena.sh and run_pretrain_caduceus.sh in
kuleshov-group/caduceus, without wandb and for 16-bit training as they configure it. Caduceus runs
without its fused sum and norm in both arms: the fused kernel reads eps and weight of the norm, and
computes another function (see packages/caduceus/README.md). Fine-tuning on GenomicBenchmarks is a
sweep over splits and learning rates, which ../cvpr2025/table06.py has.
"""

from dyt_upstream.config import Script
from dyt_upstream.upstreams import UPSTREAMS
from matched import Metric, Resources, Run, Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.upstream import common

GPUS = 8
BASES = 1_048_576
"""Bases of an optimizer step in both networks."""


def pretraining(model: str, *options: str, length: int, steps: int, lr: str) -> Run:
    """Pretraining of one network."""
    batch = BASES // length
    config = Script(
        upstream="caduceus",
        commit=UPSTREAMS["caduceus"].commit,
        command=(
            *("-m", "train", "experiment=hg38/hg38", f"model={model}", "wandb=null"),
            *(f"dataset.max_length={length}", f"dataset.batch_size={batch // GPUS}"),
            *("dataset.fasta_file={data.hg38}/hg38.ml.fa", f"train.global_batch_size={batch}"),
            *("dataset.bed_file={data.hg38}/human-sequences.bed", f"optimizer.lr={lr}"),
            *(f"trainer.max_steps={steps}", f"trainer.devices={GPUS}"),
            f"+trainer.val_check_interval={steps // 5}",
            "callbacks.model_checkpoint_every_n_steps.every_n_train_steps=500",
            *("train.seed={seed}", "hydra.run.dir={output}", "hydra.job.chdir=true", *options),
        ),
        metrics=("loss",),
        processes=GPUS,
        torchrun=True,
        total=steps,
        data=("upstream.caduceus", "hg38"),
    )
    return Run(task=common.TASK, config=config)


PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs={
        "hyenadna": pretraining(
            "hyena",
            *("dataset.mlm=false", "dataset.mlm_probability=0.0", "dataset.rc_aug=true"),
            *("model.d_model=256", "model.n_layer=4"),
            length=1024,
            steps=10_000,
            lr="6e-4",
        ),
        "caduceus": pretraining(
            "caduceus",
            *("dataset.mlm=true", "dataset.mlm_probability=0.15", "dataset.rc_aug=false"),
            *("model.config.d_model=256", "model.config.n_layer=8"),
            *("model.config.bidirectional=true", "model.config.bidirectional_strategy=add"),
            *("model.config.bidirectional_weight_tie=true", "model.config.rcps=true"),
            "model.config.fused_add_norm=false",
            length=131_072,
            steps=50_000,
            lr="8e-3",
        ),
    },
    resources=Resources(gpus=GPUS, cpus=6, memory_gb=64, minutes=24 * 60),
    metrics=(Metric(key="loss", label="pretraining loss", direction="lower"),),
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(common.SMOKE, PAPER),
    title="Pretraining of Table 6 by the official trainer of Caduceus",
    labels={**common.LABELS, "hyenadna": "HyenaDNA", "caduceus": "Caduceus-PS"},
)
