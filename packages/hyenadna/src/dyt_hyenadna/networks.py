"""Networks of the DNA packages as the training tasks use them, with the configured norm layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyt import convert
from dyt_hyenadna.config import BenchmarkFineTuning, GenomePretraining


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Construction, parameter groups and weights of HyenaDNA's or Caduceus's networks.

    Attributes:
        language_model: (network, seed) → module that maps ids ``(B, L)`` to logits ``(B, L, V)``.
        classifier: (network, classes, seed, masked_pooling=…) → module that maps ids ``(B, L)`` to
            logits ``(B, classes)``.
        parameter_groups: (model, lr=…, weight_decay=…, official=…) → groups for the optimizer.
        load_backbone: (classifier, state dict of a language model) → names of the loaded tensors;
            strict.
    """

    language_model: Callable[[Any, int], nn.Module]
    classifier: Callable[..., nn.Module]
    parameter_groups: Callable[..., list[dict[str, Any]]]
    load_backbone: Callable[[nn.Module, Mapping[str, Tensor]], tuple[str, ...]]

    def make_optimizer(
        self, model: nn.Module, config: GenomePretraining | BenchmarkFineTuning
    ) -> torch.optim.AdamW:
        """Return AdamW with the network's own parameter groups."""
        groups = self.parameter_groups(
            model, lr=config.lr, weight_decay=config.weight_decay, official=config.official_decay
        )
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def replace_norms(
    model: nn.Module, config: GenomePretraining | BenchmarkFineTuning
) -> tuple[str, ...]:
    """Replace the norm layers in place as ``config.norm`` says, and return their paths."""
    return convert(model, config.norm).paths
