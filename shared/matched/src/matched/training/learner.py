"""What a domain hands to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset


class EmaModel(Protocol):
    """A moving average of a model's weights, such as timm's ModelEmaV3."""

    module: nn.Module

    def update(self, model: nn.Module) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """Where training stands: optimiser step ``step`` (0-based) is the one at work."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The share of the training that lies behind, from 0 to below 1."""
        return self.step / self.steps


class Hooks:
    """What a method does around each optimiser step besides loss and update; here, nothing.

    Whatever these change and a later step reads has to lie in the model's state, so that a
    checkpoint has it, or follow from the moment.
    """

    def before_step(self, step_info: StepInfo) -> None:
        """Before the step's first micro-batch; the learning rates have been set."""

    def on_gradients(self, step_info: StepInfo) -> None:
        """The gradients of the step are whole and not scaled; ``clip_norm`` comes after."""

    def after_step(self, step_info: StepInfo) -> None:
        """The weights and their average have been updated."""


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
        inherited: state-dict names of what another run has trained, left out of it too: that
            run has a fingerprint of its own.
        prepare: what is done to a micro-batch on the device, such as mixup; seeded per step.
        average: moving average of the weights, evaluated instead of them.
        hooks: what else is done around each step: schedules, a teacher that follows the model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    loss: Callable[[nn.Module, Any], torch.Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    selection_metric: tuple[str, str]
    norms: Sequence[str]
    inherited: Sequence[str] = ()
    prepare: Callable[[Any], Any] = lambda batch: batch
    ema: EmaModel | None = None
    hooks: Hooks = field(default_factory=Hooks)

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
