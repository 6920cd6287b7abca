"""Keeps `from dyt import Norm` free of torch: configs are read where no network is built."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dyt.norm import Norm

if TYPE_CHECKING:
    from dyt.conversion import convert
    from dyt.folding import fold
    from dyt.layers import Derf, DynamicErf, DynamicTanh, DyT
    from dyt.linear import DyTLinear
    from dyt.report import Kept, Replacement, Report
    from dyt.rules import WAV2VEC2_SKIP, drop_zero_init, scale_embedding
    from dyt.standard import BatchNorm, ChannelsFirstLayerNorm

__version__ = "0.1.0"

__all__ = [
    "WAV2VEC2_SKIP",
    "BatchNorm",
    "ChannelsFirstLayerNorm",
    "Derf",
    "DyT",
    "DyTLinear",
    "DynamicErf",
    "DynamicTanh",
    "Kept",
    "Norm",
    "Replacement",
    "Report",
    "convert",
    "drop_zero_init",
    "fold",
    "scale_embedding",
]

_NEEDS_TORCH = {
    "conversion": ("convert",),
    "folding": ("fold",),
    "layers": ("Derf", "DyT", "DynamicErf", "DynamicTanh"),
    "linear": ("DyTLinear",),
    "report": ("Kept", "Replacement", "Report"),
    "rules": ("WAV2VEC2_SKIP", "drop_zero_init", "scale_embedding"),
    "standard": ("BatchNorm", "ChannelsFirstLayerNorm"),
}


def __getattr__(name: str) -> Any:
    """Import the part of the library that `name` lives in, the first time it is asked for."""
    for module, names in _NEEDS_TORCH.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"dyt.{module}"), name)
            return value
    raise AttributeError(f"module 'dyt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
