"""Process of one section of the GPU benchmark: its parts, their limits and their failures."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu_sections import Part, preparation, progress, timing

FILLING_GIGABYTES = 8
BROKEN_CONTEXT = 3  # exit code: CUDA is unusable in this process, and a new one is needed


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The share of a section's parts that a process measures: every `processes`-th."""

    process: int = 0
    processes: int = 1


WHOLE = Slice()


def run_section(
    section: str,
    device: str,
    folder: Path,
    deadline: float,
    skipped: Sequence[str] = (),
    share: Slice = WHOLE,
) -> None:
    """Measure the parts of a section that are not whole, until the deadline (of `time.time`).

    Parts that failed in an earlier call are tried last. A part that exceeds its limit ends the
    process.

    Args:
        skipped: parts that failed in earlier processes of this call.
    """
    torch.manual_seed(0)
    environment = progress.environment(device)
    state = progress.Progress(folder, section, environment, share.process)
    failed = state.failed()
    for part in sorted(_parts(state, device, share), key=lambda part: part.name in failed):
        if part.name in skipped:
            continue
        left = deadline - time.time()
        if left <= 0:
            return
        if (reason := preparation.left_out(part, device)) is not None:
            print(f"  {part.name}: {reason}", flush=True)
            state.fail(part.name, reason)
            continue
        _measure(part, state, min(part.limit, left), device)


def fill_caches(section: str, device: str, folder: Path, share: Slice) -> None:
    """Run the parts that are not whole once, for the compilers' caches; their results are not used.

    Several processes do this at the same time, so parts that need much memory are left to the
    measurement, and errors are too.
    """
    timing.fills_caches = True
    state = progress.Progress(folder, section, progress.environment(device))
    for part in _parts(state, device, share):
        if part.gigabytes > FILLING_GIGABYTES or preparation.left_out(part, device) is not None:
            continue
        with suppress(Exception):
            part.measure()


def _parts(state: progress.Progress, device: str, share: Slice) -> list[Part]:
    """Return the parts of a process that are not whole."""
    module = importlib.import_module(f"gpu_sections.{state.section}")
    parts: list[Part] = module.parts(device)
    whole = state.whole()
    return [part for part in parts[share.process :: share.processes] if part.name not in whole]


def _measure(part: Part, state: progress.Progress, limit: float, device: str) -> None:
    started = time.time()
    print(f"  {part.name} …", flush=True)
    state.begin(part.name)
    faulthandler.dump_traceback_later(limit, exit=True)
    try:
        rows = part.measure(state.folder) if part.in_folder else part.measure()
    except Exception as error:
        reason = one_line(error)
        print(f"  {part.name}: failed: {reason}", flush=True)
        state.fail(part.name, reason)
        if not _is_usable(device):
            sys.exit(BROKEN_CONTEXT)
    else:
        state.complete(part.name, rows)
        print(f"  {part.name}: {time.time() - started:.1f} s", flush=True)
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
