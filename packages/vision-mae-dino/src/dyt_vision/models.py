"""timm models with the norm layer that a config asks for, every other weight the same."""

from __future__ import annotations

from difflib import get_close_matches

import timm
from torch import nn

from dyt import convert
from dyt_vision.config import Supervised
from matched.training import reseed


def build(config: Supervised, classes: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a run, and the paths of its norm layers.

    The weights are drawn before the norm layers are replaced, and replacing draws none: the arms
    of a pair start from the same bits everywhere else.

    Raises:
        ValueError: if timm has no such model, or the model has no norm layer to replace.
    """
    if not timm.is_model(config.model):
        near = get_close_matches(config.model, timm.list_models(), n=5)
        hint = f"near it: {', '.join(near)}" if near else "timm.list_models() names them"
        raise ValueError(f"timm has no model {config.model!r}; {hint}")
    reseed(config.seed, "weights")
    model = timm.create_model(
        config.model,
        num_classes=classes,
        drop_path_rate=config.drop_path,
        **dict(config.model_args),
    )
    report = convert(model, config.norm)
    return model, report.paths
