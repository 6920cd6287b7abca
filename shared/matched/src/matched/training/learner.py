"""What a domain hands to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset


class Average(Protocol):
    """A moving average of a model's weights, such as timm's ModelEmaV3."""

    module: nn.Module

    def update(self, model: nn.Module) -> None: ...


@dataclass(kw_only=True)
class Learner:
    """What a domain brings to the loop.

    Attributes:
        model: on the device of this process, converted, initialised.
        optimizer: over the model's parameters; ``lr`` of each group is its peak.
        dataset: map-style; its randomness comes from the global generators, which the loop
            seeds for every sample.
        loss: (model, micro-batch) → mean loss over the micro-batch, a scalar tensor.
        evaluate: model → metrics, the same on every process. Each process has to call the model
            equally often: one that is sharded is put together by all of them at every call.
        score: the metric that tells the best evaluation, and which way is better.
        norms: paths of the norm layers, left out of the fingerprint.
        prepare: what is done to a micro-batch on the device, such as mixup; seeded per step.
        average: moving average of the weights, evaluated instead of them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    loss: Callable[[nn.Module, Any], torch.Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    score: tuple[str, str]
    norms: Sequence[str]
    prepare: Callable[[Any], Any] = lambda batch: batch
    average: Average | None = None

    def parameter_names(self) -> dict[nn.Parameter, str]:
        """The optimizer's parameters by the names that the model has for them.

        Raises:
            ValueError: if one of them is not the model's.
        """
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        if strange := [tuple(p.shape) for p in held if p not in names]:
            raise ValueError(
                f"the optimizer holds parameters that are not the model's, of shapes {strange}; "
                "make it over model.parameters(), after the model has been converted"
            )
        return {parameter: names[parameter] for parameter in held}
