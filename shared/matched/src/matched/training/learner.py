"""Learner: the model, optimizer, data, loss and evaluation that a domain passes to the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from matched.training.ema import EmaModel


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """The current optimizer step.

    Attributes:
        step: number of the step, 0-based.
        steps: total number of steps.
        steps_per_epoch: steps per epoch.
    """

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """The current epoch, 0-based."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The completed fraction of the training, in [0, 1)."""
        return self.step / self.steps


class Hooks:
    """Callbacks around each optimizer step, for methods that need more than a loss; no-ops here.

    State that they change and that a later step reads must be in the model's state dict, to be
    checkpointed, or be a function of the ``StepInfo``.
    """

    def before_step(self, step_info: StepInfo) -> None:
        """Run before the first micro-batch of the step, after the learning rates are set."""

    def on_gradients(self, step_info: StepInfo) -> None:
        """Run when the gradients are complete and unscaled, before ``clip_norm`` is applied."""

    def after_step(self, step_info: StepInfo) -> None:
        """Run after the weights and the EMA have been updated."""


@dataclass(kw_only=True)
class Learner:
    """What a domain passes to ``fit``.

    Attributes:
        model: on this process's device, converted and initialized; or on the meta device.
        optimizer: of the model's parameters; ``lr`` of each group is its peak.
        dataset: map-style; its randomness comes from the global generators, which the loop
            seeds for every sample.
        loss: (model, micro-batch) → mean loss over the micro-batch, a scalar tensor.
        evaluate: model → metrics, equal on all processes. Each process must call the model the
            same number of times: every call of a sharded model is a collective.
        selection_metric: (metric, "higher" or "lower") used to select the best evaluation.
        norms: paths of the norm layers, and names of other parameters that not every arm has,
            excluded from the fingerprint.
        inherited: state-dict names of weights from another run, also excluded from the fingerprint:
            that run's own covers them.
        prepare: micro-batch on the device → micro-batch, such as mixup; seeded per step.
        ema: EMA of the weights, evaluated instead of the model; see ``matched.training.ema``.
        hooks: callbacks around each step, such as schedules or a teacher that follows the model.
        materialize: allocate and initialize a model that is on the meta device, in place. It is
            called after sharding, so that no process holds the whole model; its weights must not
            depend on how they are divided. None for a model with weights.
        alphas: model → α of each DyT layer by path, logged with each evaluation: ``dyt.alphas``.
            All processes call it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    dataset: Dataset[Any]
    loss: Callable[[nn.Module, Any], torch.Tensor]
    evaluate: Callable[[Any], dict[str, float]]
    selection_metric: tuple[str, str]
    norms: Sequence[str]
    inherited: Sequence[str] = ()
    prepare: Callable[[Any], Any] = lambda batch: batch
    ema: EmaModel | None = None
    hooks: Hooks = field(default_factory=Hooks)
    materialize: Callable[[], None] | None = None
    alphas: Callable[[nn.Module], Mapping[str, float]] = lambda model: {}

    def group_names(self) -> list[list[str]]:
        """Return the names of the parameters of each of the optimizer's groups."""
        names = self.parameter_names()
        return [[names[p] for p in group["params"]] for group in self.optimizer.param_groups]

    def replace_parameters(self, group_names: list[list[str]]) -> None:
        """Give the optimizer the model's parameters of these names, after they were replaced."""
        assert not self.optimizer.state, "the optimizer has state already"
        parameters = dict(self.model.named_parameters())
        for group, names in zip(self.optimizer.param_groups, group_names, strict=True):
            group["params"] = [parameters[name] for name in names]

    def parameter_names(self) -> dict[nn.Parameter, str]:
        """Return the optimizer's parameters → their names in the model.

        Raises:
            ValueError: if the optimizer has a parameter that is not the model's.
        """
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        optimized = [p for group in self.optimizer.param_groups for p in group["params"]]
        if unknown := [tuple(p.shape) for p in optimized if p not in names]:
            raise ValueError(
                f"the optimizer holds parameters that are not the model's, of shapes {unknown}; "
                "create it from model.parameters(), after the model has been converted"
            )
        return {parameter: names[parameter] for parameter in optimized}
