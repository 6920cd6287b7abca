"""Classifiers with the norm layer that a config asks for, every other weight the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches

import timm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dyt import convert
from dyt_vision.config import Supervised, Vision
from dyt_vision.normfree import NormFree, apply
from matched.training import reseed


def build(config: Supervised, classes: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a run, and the paths of its norm layers.

    The weights are drawn before the norm layers are replaced, and replacing draws none: the arms
    of a pair start from the same bits everywhere else.

    Raises:
        ValueError: if there is no such model, or the model has no norm layer to replace.
    """
    model = create(config, classes)
    return model, replace_norms(model, config)


def create(config: Supervised, classes: int) -> nn.Module:
    """The model of a run as it comes, with its own norm layers."""
    make = _maker(config.model)
    arguments = dict(config.model_args)
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    reseed(config.seed, "weights")
    return make(num_classes=classes, **arguments)


def replace_norms(model: nn.Module, config: Vision) -> tuple[str, ...]:
    """Put in what the config asks for, in place; the paths of what a pair may differ in."""
    if isinstance(config.norm, NormFree):
        return apply(model, config.norm)
    also = _BatchNorm if getattr(config, "convert_batch_norm", False) else ()
    return convert(model, config.norm, also=also).paths


def _maker(name: str) -> Callable[..., nn.Module]:
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
        near = get_close_matches(name, timm.list_models(), n=5)
        hint = f"near it: {', '.join(near)}" if near else "timm.list_models() names them"
        raise ValueError(f"timm has no model {name!r}; {hint}")
    return lambda **arguments: timm.create_model(name, **arguments)
