"""Networks of the DNA packages as the training tasks use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt import Norm, Report, convert
from dyt_hyenadna import model, weights
from dyt_hyenadna.config import BenchmarkFineTuning, GenomePretraining
from dyt_hyenadna.optimizer_groups import optimizer_groups
from dyt_hyenadna.sources import weights_file
from matched.task import Context


def _ignore_device(context: Context, device: str) -> None:
    """Do nothing, for networks without a choice of kernels."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Functions that build, convert and load the networks of one package.

    Attributes:
        language_model: config → module that maps ids ``(B, L)`` to logits ``(B, L, V)``.
        classifier: (config, classes) → module that maps ids ``(B, L)`` to logits ``(B, classes)``.
        convert: (model, norm, calibrate=…) replaces the norm layers in place, as ``dyt.convert``.
        optimizer_groups: (model, lr=…, weight_decay=…, official=…) → groups for AdamW.
        load_backbone: (classifier, state dict of a language model) → names of the loaded tensors;
            strict.
        load: (model, path of a checkpoint or of a folder with one) → names of the loaded tensors;
            strict.
        choose_kernels: (context, device type) chooses what the machine can run and records it.
    """

    language_model: Callable[[Any], nn.Module]
    classifier: Callable[[Any, int], nn.Module]
    convert: Callable[..., Report]
    optimizer_groups: Callable[..., list[dict[str, Any]]]
    load_backbone: Callable[[nn.Module, Mapping[str, Tensor]], tuple[str, ...]]
    load: Callable[[nn.Module, Path], tuple[str, ...]]
    choose_kernels: Callable[[Context, str], object] = _ignore_device

    def replace_norms(
        self, model: nn.Module, norm: Norm, calibrate: Callable[[nn.Module], Any] | None = None
    ) -> tuple[str, ...]:
        """Replace the norm layers in place and return their paths.

        Args:
            calibrate: runs the network on training data, if the norm is calibrated; None for a
                network whose weights, α among them, are loaded afterwards.
        """
        if calibrate is None or not norm.calibrated:
            return self.convert(model, norm.uncalibrated()).paths
        return self.convert(model, norm, calibrate=calibrate).paths

    def optimizer(
        self, model: nn.Module, config: GenomePretraining | BenchmarkFineTuning
    ) -> torch.optim.AdamW:
        """Return AdamW with the network's own parameter groups."""
        groups = self.optimizer_groups(
            model, lr=config.lr, weight_decay=config.weight_decay, official=config.official_decay
        )
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def pooling(config: BenchmarkFineTuning) -> model.Pooling:
    """Return the name that the classifiers have for the config's pooling."""
    return "unpadded" if config.masked_pooling else "all"


HYENADNA = Networks(
    language_model=lambda config: model.build_language_model(config.network, config.seed),
    classifier=lambda config, classes: model.build_classifier(
        config.network, classes, config.seed, pooling(config)
    ),
    convert=convert,
    optimizer_groups=optimizer_groups,
    load_backbone=weights.load_backbone,
    load=lambda model, path: weights.load(model, weights_file(path)),
)
