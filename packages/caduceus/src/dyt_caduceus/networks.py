"""Caduceus's networks as the training tasks use them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dyt_caduceus import model, weights
from dyt_caduceus.config import ReleasedWeights
from dyt_caduceus.selective_scan import record_scan
from dyt_caduceus.sources import weights_file
from dyt_hyenadna.networks import Networks, pooling


def read_weights(config: ReleasedWeights, path: Path) -> dict[str, Tensor]:
    """Return the state dict of a released language model.

    Raises:
        ValueError: if there is none at the path, or it is of another network or variant.
    """
    language_model = model.build_language_model(config.network, seed=0)
    weights.load(language_model, weights_file(path))
    return language_model.state_dict()


CADUCEUS = Networks(
    language_model=lambda config: model.build_language_model(config.network, config.seed),
    classifier=lambda config, classes: model.build_classifier(
        config.network, classes, config.seed, pooling(config), conjoin=config.conjoin
    ),
    convert=model.convert_norms,
    optimizer_groups=model.optimizer_groups,
    load_backbone=weights.load_backbone,
    read_weights=read_weights,
    choose_kernels=record_scan,
)
