"""mamba-ssm's CUDA kernels, if they are installed: their import, and the reason why it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

COMMANDS = (
    "pip install ninja && MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation "
    "'./packages/caduceus[cuda]'"
)
"""Installation of the optional extra; it needs nvcc, of the CUDA version of torch."""


def installed() -> bool:
    """True if a package mamba-ssm is installed, even if it is broken."""
    return find_spec("mamba_ssm") is not None


@cache
def problem() -> str | None:
    """Return the reason why the kernels cannot be used, in one line, or None if they can.

    The import of mamba-ssm takes seconds and initializes libraries for the GPU, hence it is only
    made by a run on a GPU.
    """
    if not installed():
        return "mamba-ssm is not installed"
    try:
        interface = import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # an undefined symbol, a missing library, an older torch
        return f"mamba-ssm is installed but broken ({_one_line(error)})"
    if getattr(interface, "selective_scan_cuda", None) is None:
        # Newer releases install without the kernel of Mamba's first version by default.
        return "mamba-ssm is installed without the kernel selective_scan_cuda"
    return None


@cache
def scan_function() -> Callable[..., Any]:
    """Return mamba-ssm's selective scan; see ``selective_scan`` for its arguments."""
    interface = import_module("mamba_ssm.ops.selective_scan_interface")
    function: Callable[..., Any] = interface.selective_scan_fn
    return function


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
