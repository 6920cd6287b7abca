"""Earlier methods to train Transformers without norm layers; ``NormFree`` imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dyt_vision.normfree.method import NormFree

if TYPE_CHECKING:
    from dyt_vision.normfree.conversion import apply

__all__ = ["NormFree", "apply"]


def __getattr__(name: str) -> Any:
    """Import ``apply``, which needs torch, on first access."""
    if name == "apply":
        return import_module("dyt_vision.normfree.conversion").apply
    raise AttributeError(f"module 'dyt_vision.normfree' has no attribute {name!r}")
