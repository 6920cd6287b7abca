"""Process of one section of the GPU benchmark: its parts, their limits and their failures."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gpu_sections import Part, preparation, progress

BROKEN_CONTEXT = 3  # exit code: CUDA is unusable in this process, and a new one is needed


def run_section(
    section: str, device: str, folder: Path, deadline: float, skipped: Sequence[str] = ()
) -> None:
    """Measure the parts of a section that are not whole, until the deadline (of `time.time`).

    Parts that failed in an earlier call are tried last. A part that exceeds its limit ends the
    process.

    Args:
        skipped: parts that failed in earlier processes of this call.
    """
    torch.manual_seed(0)
    state = progress.Progress(folder, section, progress.environment(device))
    whole, failed = {*state.whole(), *skipped}, state.failed()
    module = importlib.import_module(f"gpu_sections.{section}")
    parts: list[Part] = [part for part in module.parts(device) if part.name not in whole]
    for part in sorted(parts, key=lambda part: part.name in failed):
        left = deadline - time.time()
        if left <= 0:
            return
        if (reason := preparation.left_out(part, device)) is not None:
            print(f"  {part.name}: {reason}", flush=True)
            state.fail(part.name, reason)
            continue
        _measure(part, state, min(part.limit, left), device)


def _measure(part: Part, state: progress.Progress, limit: float, device: str) -> None:
    started = time.time()
    print(f"  {part.name} …", end="", flush=True)
    state.begin(part.name)
    faulthandler.dump_traceback_later(limit, exit=True)
    try:
        rows = part.measure(state.folder) if part.in_folder else part.measure()
    except Exception as error:
        reason = one_line(error)
        print(f" failed: {reason}", flush=True)
        state.fail(part.name, reason)
        if not _is_usable(device):
            sys.exit(BROKEN_CONTEXT)
    else:
        state.complete(part.name, rows)
        print(f" {time.time() - started:.1f} s", flush=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if device == "cuda":
        torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _is_usable(device: str) -> bool:
    """True if CUDA can still be used: after an illegal access, every call of the process fails."""
    if device != "cuda":
        return True
    try:
        torch.ones(1, device="cuda").item()
    except RuntimeError:
        return False
    return True
