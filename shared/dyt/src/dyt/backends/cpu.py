"""Import of the C++ kernel, which registers itself with torch; `PROBLEM` if it is unavailable."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

import torch

from dyt.backends import triton  # also defines the operator schemas that the kernel implements
from dyt.kernel_build import MODULE, cached_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _load() -> str | None:
    """Import the kernel; return None, or the reason why it is not available."""
    if triton.REPLACES_CPU_KERNEL:
        return "DYT_BACKEND=triton and TRITON_INTERPRET=1 replace it by the GPU kernel"
    problem = None
    try:
        # A top-level module, not inside the package: a copy of the source tree has no built files,
        # and if it comes first on the path, the installed kernel must still be found.
        import_module(MODULE)
    except ModuleNotFoundError:
        problem = "it was not built when dyt was installed"
    except ImportError as error:  # usually built for a different version of torch
        problem = f"it cannot be loaded ({error})"
    return None if problem is None or _load_cached() else problem


def _load_cached() -> bool:
    """Import the kernel that `python -m dyt build` made, and return True if there is one."""
    try:
        file = cached_kernel(torch.__version__)
        if not file.is_file():
            return False
    except (OSError, RuntimeError):  # no home folder, or one that cannot be read
        return False
    spec = spec_from_file_location(MODULE, file)
    assert spec is not None and spec.loader is not None, "the suffix is that of an extension"
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return False
    sys.modules[MODULE] = module
    return True


PROBLEM = _load()
REMEDY = "Run `python -m dyt build` in the environment that has torch; it needs a C++ compiler"
