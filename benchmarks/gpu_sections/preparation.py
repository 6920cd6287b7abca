"""Checks before the GPU benchmark: what the machine cannot run, in one clear line each."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from dyt.backends import triton
from gpu_sections import Part

MINIMUM_CAPABILITY = (8, 0)
PAGE = "docs/GPU.md"


def problem(device: str) -> str | None:
    """Return why nothing can be measured on a device ("cpu" or "cuda"), or None."""
    if device == "cuda" and (found := _cuda_problem()) is not None:
        return found
    if triton.PROBLEM is not None:
        return f"the GPU kernels cannot run: {triton.PROBLEM}. {triton.REMEDY}"
    return None


def _cuda_problem() -> str | None:
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} was built without CUDA. Install a CUDA build, or use"
            " DEVICE=cpu for a rehearsal"
        )
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except RuntimeError as error:
        return _init_problem(str(error).splitlines()[0])
    if count == 0:
        return "no CUDA device was found. Use a machine with one, or DEVICE=cpu for a rehearsal"
    capability = torch.cuda.get_device_capability()
    if capability < MINIMUM_CAPABILITY:
        return (
            f"{torch.cuda.get_device_name()} is sm_{capability[0]}{capability[1]}, and the kernels"
            " are measured on sm_80 (A100) and newer. Use such a card"
        )
    return None


def _init_problem(message: str) -> str:
    if "driver" in message and "No CUDA" not in message and "no NVIDIA driver" not in message:
        return (
            f"the driver cannot run torch {torch.__version__} (CUDA {torch.version.cuda}):"
            f" {message} Update the driver, or use a torch for an older CUDA"
        )
    return (
        f"no CUDA device can be used: {message.rstrip('.')}. Use a machine with one, or DEVICE=cpu"
        " for a rehearsal"
    )


def left_out(part: Part, device: str) -> str | None:
    """Return why a part cannot be measured on this machine, or None if it can."""
    missing = [name for name in part.requires if find_spec(name) is None]
    if missing:
        return f"left out: {', '.join(missing)} not installed; {PAGE} has the commands"
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        if part.gigabytes > total:
            return (
                f"left out: it needs {part.gigabytes:g} GB of memory, and the card has {total:.0f}"
            )
    return None
