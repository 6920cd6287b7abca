"""Holds what the benchmarks of layers and of training steps share, so that both measure alike."""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
# glibc maps large tensors one by one and gives them back at once: most of what is timed is then
# the system handing out fresh pages, which a long-running program seldom sees.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in large pages, where the system has them
}


def keep_memory() -> None:
    """Start this process again if need be, with a memory allocator that keeps what it gets back."""
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})


def positive(text: str) -> int:
    """An argument of a command that is a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The value at 10 % of the rounds, the median, and the value at 90 %."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    p10, *_, p90 = statistics.quantiles(values, n=10, method="inclusive")
    return p10, statistics.median(values), p90


def place(device: str) -> dict[str, str | int | float]:
    """Where and when something was measured, as columns of a row."""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
        instructions = "sm_{}{}".format(*torch.cuda.get_device_capability())
    else:
        hardware, instructions = processor(), torch.backends.cpu.get_cpu_capability()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "hardware": hardware,
        "instructions": instructions,
        "load": f"{os.getloadavg()[0]:.2f}",  # processes that others ran, as it starts
        "torch": torch.__version__,
        "python": platform.python_version(),
        "triton": version("triton"),
        "liger": version("liger-kernel"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def version(package: str) -> str:
    """Of an installed package, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def append(path: Path, rows: list[dict]) -> None:
    """Add rows to a file of CSV, or begin one.

    Raises:
        ValueError: the file has other columns.
    """
    columns = list(rows[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    found = read(path)
    if found and list(found[0]) != columns:
        raise ValueError(f"{path} has other columns than these rows: move it elsewhere first")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not found:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file of CSV; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
