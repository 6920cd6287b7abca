"""Caduceus's networks as the training tasks use them."""

from __future__ import annotations

from dyt_caduceus import model, weights
from dyt_caduceus.selective_scan import record_scan
from dyt_caduceus.sources import weights_file
from dyt_hyenadna.networks import Networks, pooling

CADUCEUS = Networks(
    language_model=lambda config: model.build_language_model(config.network, config.seed),
    classifier=lambda config, classes: model.build_classifier(
        config.network, classes, config.seed, pooling(config), conjoin=config.conjoin
    ),
    convert=model.convert_norms,
    optimizer_groups=model.optimizer_groups,
    load_backbone=weights.load_backbone,
    load=lambda model, path: weights.load(model, weights_file(path)),
    choose_kernels=record_scan,
)
