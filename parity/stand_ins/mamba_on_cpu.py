"""Mamba's package from a checkout on a machine without CUDA: its reference formulas, no kernels.

The variable MAMBA is the path of a checkout of state-spaces/mamba. Its modules are unmodified; its
scan is its `selective_scan_ref`, and its RMSNorm, which is not converted here, computes with its
`rms_norm_ref`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

folder = Path(os.environ["MAMBA"]) / "mamba_ssm"
if not (folder / "modules" / "mamba_simple.py").is_file():
    raise SystemExit(f"MAMBA is {folder.parent}, which is no checkout of state-spaces/mamba")
package = ModuleType("mamba_ssm")
package.__path__ = [str(folder)]
sys.modules["mamba_ssm"] = package  # the package's own __init__ imports Mamba-2 and Mamba-3

from mamba_ssm.ops import selective_scan_interface as scans  # noqa: E402
from mamba_ssm.ops.triton import layer_norm  # noqa: E402


def rms_norm(x: Any, weight: Any, bias: Any, **options: Any) -> Any:
    """Return `rms_norm_ref`, which has no option for residuals in fp32: all is fp32 here."""
    options.pop("residual_in_fp32", None)
    return layer_norm.rms_norm_ref(x, weight, bias, **options)


scans.selective_scan_fn = scans.selective_scan_ref
layer_norm.rms_norm_fn = rms_norm
