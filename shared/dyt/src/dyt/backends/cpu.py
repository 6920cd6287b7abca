"""Import of the C++ kernel, which registers itself with torch, or the reason why it is missing."""

from __future__ import annotations

from importlib import import_module

import torch

from dyt.backends import triton  # also defines the operator schemas that the kernel implements

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A top-level module, not inside the package: a copy of the source tree has no built files, and if
# it comes first on the path, the installed kernel must still be found. The number changes with the
# operators' schemas, so an older copy cannot load a kernel built for different schemas.
MODULE = "_dyt_cpu_2"


def _load() -> str | None:
    """Import the kernel; return None, or the reason why it is not available."""
    if triton.REPLACES_CPU_KERNEL:
        return "DYT_BACKEND=triton and TRITON_INTERPRET=1 replace it by the GPU kernel"
    try:
        import_module(MODULE)
    except ModuleNotFoundError:
        return "it was not built when dyt was installed"
    except ImportError as error:  # usually built for a different version of torch
        return f"it cannot be loaded ({error})"
    return None


PROBLEM = _load()
REMEDY = (
    "Install a C++ compiler and, in the environment that has torch, run"
    " `pip install --force-reinstall --no-deps --no-build-isolation` on the source of dyt"
)
