"""Public names of dyt, of which all but `Norm` are imported on first use.

`from dyt import Norm` imports no torch, so configurations can be read where no network is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dyt.norm_config import Norm

if TYPE_CHECKING:
    from dyt.alpha0_rule import suggested_alpha0
    from dyt.architecture_rules import WAV2VEC2_SKIP, drop_zero_init, scale_embedding
    from dyt.calibration import Calibration
    from dyt.calibration_fit import Fit
    from dyt.conversion import convert
    from dyt.conversion_report import Kept, Replacement, Report
    from dyt.dyt_linear import DyTLinear
    from dyt.folding import fold
    from dyt.layers import Derf, DynamicErf, DynamicTanh, DyT
    from dyt.monitoring import InputStatistics, alphas, watch_saturation
    from dyt.norm_layout import NormLayout
    from dyt.optimizer_groups import param_groups
    from dyt.pretrained import load_pretrained, load_state_dict, save_pretrained
    from dyt.replacing_block import ReplacementError, replacing
    from dyt.standard_norms import BatchNorm, ChannelsFirstLayerNorm

__version__ = "0.1.0"

__all__ = [
    "WAV2VEC2_SKIP",
    "BatchNorm",
    "Calibration",
    "ChannelsFirstLayerNorm",
    "Derf",
    "DyT",
    "DyTLinear",
    "DynamicErf",
    "DynamicTanh",
    "Fit",
    "InputStatistics",
    "Kept",
    "Norm",
    "NormLayout",
    "Replacement",
    "ReplacementError",
    "Report",
    "alphas",
    "convert",
    "drop_zero_init",
    "fold",
    "load_pretrained",
    "load_state_dict",
    "param_groups",
    "replacing",
    "save_pretrained",
    "scale_embedding",
    "suggested_alpha0",
    "watch_saturation",
]

_LAZY_NAMES = {
    "alpha0_rule": ("suggested_alpha0",),
    "calibration": ("Calibration",),
    "calibration_fit": ("Fit",),
    "conversion": ("convert",),
    "folding": ("fold",),
    "norm_layout": ("NormLayout",),
    "monitoring": ("InputStatistics", "alphas", "watch_saturation"),
    "optimizer_groups": ("param_groups",),
    "replacing_block": ("ReplacementError", "replacing"),
    "pretrained": ("load_pretrained", "load_state_dict", "save_pretrained"),
    "layers": ("Derf", "DyT", "DynamicErf", "DynamicTanh"),
    "dyt_linear": ("DyTLinear",),
    "conversion_report": ("Kept", "Replacement", "Report"),
    "architecture_rules": ("WAV2VEC2_SKIP", "drop_zero_init", "scale_embedding"),
    "standard_norms": ("BatchNorm", "ChannelsFirstLayerNorm"),
}


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` when it is first accessed."""
    for module, names in _LAZY_NAMES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"dyt.{module}"), name)
            return value
    raise AttributeError(f"module 'dyt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
