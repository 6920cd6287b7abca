"""Classifiers of the vision runs, with the configured norm layer and equal other weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import timm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dyt import convert
from dyt_vision.config import Supervised, Vision
from dyt_vision.normfree import NormFree, apply
from matched.training import reseed

Calibrate = Callable[[nn.Module], Any]
"""Function that runs a network on training data, to fit α to them."""

CALIBRATION_IMAGES = 64
"""Images that a calibrated α is fitted to; at 16 × 16 patches they have 12,608 positions."""


def build(
    config: Supervised, classes: int, calibrate: Calibrate | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model of a run, and the paths of its norm layers.

    The weights are initialized before the norm layers are replaced, and the replacement draws no
    random number: outside the norm layers, all arms start from the same bits.

    Args:
        config: the run's settings.
        classes: the number of classes.
        calibrate: as in ``replace_norms``.

    Raises:
        ValueError: if the model does not exist, or has no norm layer to replace.
    """
    model = create(config, classes)
    return model, replace_norms(model, config, calibrate)


def create(config: Supervised, classes: int) -> nn.Module:
    """Return the model of a run with its original norm layers."""
    make = constructor(config.model)
    arguments = dict(config.model_args)
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    reseed(config.seed, "weights")
    return make(num_classes=classes, **arguments)


def replace_norms(
    model: nn.Module, config: Vision, calibrate: Calibrate | None = None
) -> tuple[str, ...]:
    """Replace the norm layers in place as ``config.norm`` says.

    Args:
        calibrate: called if ``config.norm`` is calibrated; None for a network whose weights, α
            among them, are loaded afterwards.

    Returns:
        The paths of the layers that may differ between the arms of a pair.
    """
    if isinstance(config.norm, NormFree):
        return apply(model, config.norm)
    also = _BatchNorm if getattr(config, "convert_batch_norm", False) else ()
    if calibrate is None or not config.norm.calibrated:
        return convert(model, config.norm.uncalibrated(), also=also).paths
    return convert(model, config.norm, also=also, calibrate=calibrate).paths


def constructor(name: str) -> Callable[..., nn.Module]:
    """Return the constructor of a timm model, or the function "package.module:function"."""
    module, colon, function = name.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"model {name!r} cannot be imported ({error}); expected 'package.module:function', "
                "such as 'torchvision.models:resnet50', or the name of a timm model"
            ) from None
    if not timm.is_model(name):
        similar = get_close_matches(name, timm.list_models(), n=5)
        hint = f"similar names: {', '.join(similar)}" if similar else "timm.list_models() lists all"
        raise ValueError(f"timm has no model {name!r}; {hint}")
    return lambda **arguments: timm.create_model(name, **arguments)
