"""EMA: the exponential moving average of a model's weights.

- Created by the domain packages from ``TrainConfig.ema_decay``: timm's ``ModelEmaV3``, passed to
  the training loop as ``Learner(ema=…)``.
- Updated by the loop after every optimizer step, with ``update_ema``.
- Evaluated by the loop instead of the model: ``evaluation_model``.
- Sharded like the model (``sharding.shard``), and checkpointed under flat names that begin with
  "ema." (``training_state``).
"""

from __future__ import annotations

from typing import Protocol

from torch import nn


class EmaModel(Protocol):
    """What the loop needs of an EMA; timm's ``ModelEmaV3`` has it.

    Attributes:
        module: a copy of the model that has the averaged weights.
    """

    module: nn.Module

    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``: ema ← decay · ema + (1 - decay) · model."""


def update_ema(ema: EmaModel | None, model: nn.Module) -> None:
    """Update the EMA, if there is one, after an optimizer step of ``model``."""
    if ema is not None:
        ema.update(model)


def evaluation_model(ema: EmaModel | None, model: nn.Module) -> nn.Module:
    """Return the model to evaluate: the EMA's if there is one."""
    return model if ema is None else ema.module
