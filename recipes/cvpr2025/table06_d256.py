"""Variant of CVPR 2025's Table 6: the networks of the release's pretraining scripts, d = 256.

    Hardware   as table06.py; Caduceus is fine-tuned on one GPU too
    Time       pretraining Caduceus: its authors report 15 hours on 8 A100s for 16 layers at this
               length, so 8 for 8 layers; the other hours are guesses
    Command    make table FILE=recipes/cvpr2025/table06_d256.py SCALE=paper CLUSTER=slurm

The release's README runs Caduceus's run_pretrain_hyena.sh (d = 256, 4 layers, length 1,024) and
run_pretrain_caduceus.sh (PS, d = 256, 8 layers, length 131,072, batch 8, 50,000 steps). The means
that the paper prints fit the smaller networks of table06.py, which says more.
"""

from dataclasses import replace

from matched import Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.table06 import (
    CADUCEUS_PRETRAINING,
    HYENA_PRETRAINING,
    LABELS,
    METRICS,
    PRETRAINING,
    SCORING,
    TUNING,
    caduceus_ps,
    hyena,
    resources_of,
)

LARGE_HYENA = replace(HYENA_PRETRAINING.network, width=256, layers=4)
LARGE_CADUCEUS = replace(CADUCEUS_PRETRAINING.network, width=256, layers=8)

RUNS = {
    "hyenadna": hyena(replace(HYENA_PRETRAINING, network=LARGE_HYENA)),
    "caduceus": caduceus_ps(
        replace(
            CADUCEUS_PRETRAINING,
            network=LARGE_CADUCEUS,
            length=131_072,
            steps=50_000,
            warmup_steps=5000,
            batch=8,
            micro_batch=1,
            eval_steps=10_000,
            eval_samples=64,
            eval_batch=1,
        )
    ),
}
LONG = replace(PRETRAINING, memory_gb=64, minutes=24 * 60)

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=RUNS,
    resources=SCORING,
    resource_overrides={
        **resources_of(RUNS),
        **resources_of(
            {"caduceus": RUNS["caduceus"]},
            pretraining=LONG,
            tuning=replace(TUNING, minutes=6 * 60),
        ),
    },
    metrics=METRICS,
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(PAPER,),
    title="CVPR 2025, Table 6, with networks of width 256",
    labels=LABELS,
)
