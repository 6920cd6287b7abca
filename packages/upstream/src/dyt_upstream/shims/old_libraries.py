"""Names that newer versions of torch and numpy have removed, and a replacement for tensorboard."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch


class SilentWriter:
    """A SummaryWriter without tensorboard, which writes nothing; the scripts have other logs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.log_dir = options.get("log_dir")

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def restore_removed_names() -> None:
    """Add torch._six.inf, numpy.float and, if it is not installed, torch.utils.tensorboard."""
    six: Any = ModuleType("torch._six")
    six.inf, six.string_classes = math.inf, (str, bytes)
    sys.modules.setdefault("torch._six", six)
    np.float = float  # type: ignore[attr-defined]
    if importlib.util.find_spec("tensorboard") is None:
        tensorboard: Any = ModuleType("torch.utils.tensorboard")
        tensorboard.SummaryWriter = SilentWriter
        sys.modules["torch.utils.tensorboard"] = tensorboard
    # Checkpoints of these scripts contain their arguments, and torch.load refuses unknown classes.
    torch.serialization.add_safe_globals([argparse.Namespace])
