"""ConvNeXt (facebookresearch/ConvNeXt), for timm 0.3.2 and torch 1.8, with newer libraries."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import timm.models
import torch
from timm.optim import nadam, radam

from dyt_upstream.shims.old_libraries import SilentWriter, restore_removed_names

restore_removed_names()


def create_model(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """Return a registered network, without the arguments that timm passes since."""
    return timm.models.model_entrypoint(name)(pretrained=pretrained, **options)


timm.models.create_model = create_model  # type: ignore[assignment]
nadam.Nadam = nadam.NAdamLegacy  # type: ignore[attr-defined]
radam.RAdam = radam.RAdamLegacy  # type: ignore[attr-defined]
if importlib.util.find_spec("tensorboardX") is None:
    tensorboard: Any = ModuleType("tensorboardX")
    tensorboard.SummaryWriter = SilentWriter
    sys.modules["tensorboardX"] = tensorboard
if importlib.util.find_spec("timm.optim.novograd") is None:  # an optimizer that is not the default
    novograd: Any = ModuleType("timm.optim.novograd")
    novograd.NovoGrad = None
    sys.modules["timm.optim.novograd"] = novograd
if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda device=None: None
