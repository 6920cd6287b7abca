"""Loads the C++ kernel, which registers itself with torch, and says why it may not be there."""

from __future__ import annotations

from importlib import import_module

import torch

from dyt.backends import triton  # and with it the schemas that the kernel implements

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A name of its own, not inside the package: a copy of the source tree has no built files, and where
# it comes first on the path the installed kernel still has to be found. The number changes with the
# operators' schemas: an older copy must not load a kernel for other operators than its own.
MODULE = "_dyt_cpu_2"


def _load() -> str | None:
    """None if the kernel is loaded, else what keeps it from that."""
    if triton.STANDS_IN:
        return "DYT_BACKEND=triton and TRITON_INTERPRET=1 put the GPU kernel in its place"
    try:
        import_module(MODULE)
    except ModuleNotFoundError:
        return "it was not built when dyt was installed"
    except ImportError as error:  # built for another version of torch, as a rule
        return f"it does not load ({error})"
    return None


PROBLEM = _load()
REMEDY = (
    "Install a C++ compiler and, in the environment that has torch, run"
    " `pip install --force-reinstall --no-deps --no-build-isolation` on the source of dyt"
)
