"""Deterministic float32 arithmetic, for results that are cached and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic_float32() -> Iterator[None]:
    """Compute matrix products and convolutions in full float32 (no TF32) with deterministic cuDNN
    algorithms; restore the previous settings on exit."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
