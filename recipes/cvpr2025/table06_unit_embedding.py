"""Variant of CVPR 2025's Table 6: embeddings that start with standard deviation 1, in both arms.

    Command    make table FILE=recipes/cvpr2025/table06_unit_embedding.py SCALE=paper CLUSTER=slurm

As table06.py, except for the initial embedding: 1 instead of 0.02. Nothing between the embedding
and the first norm enlarges it, so that with the official value DyT's tanh(0.5 · 0.02) is linear and
its output as small, whereas LN gives a variance of 1. For LLaMA the ICLR submission (Section 4.2)
reports the same, and multiplies the embeddings by √d. Here both arms get the larger embedding.
"""

from dataclasses import replace
from typing import Any

from matched import Scale, Table
from recipes.cvpr2025.arms import LN_VS_DYT
from recipes.cvpr2025.table06 import (
    CADUCEUS_PRETRAINING,
    HYENA_PRETRAINING,
    LABELS,
    METRICS,
    SCORING,
    caduceus_ps,
    hyena,
    resources_of,
)


def unit_embedding(pretraining: Any) -> Any:
    """Return the pretraining with an initial embedding of standard deviation 1."""
    return replace(pretraining, network=replace(pretraining.network, embedding_std=1.0))


RUNS = {
    "hyenadna": hyena(unit_embedding(HYENA_PRETRAINING)),
    "caduceus": caduceus_ps(unit_embedding(CADUCEUS_PRETRAINING)),
}

PAPER = Scale(
    name="paper",
    seeds=(0,),
    runs=RUNS,
    resources=SCORING,
    resource_overrides=resources_of(RUNS),
    metrics=METRICS,
)

TABLE = Table(
    arms=LN_VS_DYT,
    scales=(PAPER,),
    title="CVPR 2025, Table 6, with embeddings of standard deviation 1",
    labels=LABELS,
)
