"""Shared parts of the layer and training-step benchmarks: statistics, environment, CSV files."""

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
# By default glibc maps each large tensor separately and returns its memory when freed. Most of the
# measured time would then be the allocation of new pages, which is rare in a long-running program.
REUSE_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # use large pages if the system supports them
}
# Triton and dyt read these variables when they are imported.
INTERPRETER = {"TRITON_INTERPRET": "1", "DYT_BACKEND": "triton"}


def reuse_freed_memory() -> None:
    """Restart this process, if necessary, with a memory allocator that reuses freed memory."""
    _restart_with(REUSE_MEMORY)  # glibc reads these variables only when a process starts


def interpret_triton() -> None:
    """Restart this process, if necessary, with the GPU kernels in Triton's interpreter."""
    _restart_with(INTERPRETER)


def _restart_with(variables: dict[str, str]) -> None:
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **variables})


def positive_int(text: str) -> int:
    """Parse a positive integer from a command-line argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th percentile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    p10, *_, p90 = statistics.quantiles(values, n=10, method="inclusive")
    return p10, statistics.median(values), p90


def environment(device: str) -> dict[str, str | int | float]:
    """Return hardware, software versions and time of a measurement, as columns of a row."""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
        instructions = "sm_{}{}".format(*torch.cuda.get_device_capability())
    else:
        hardware, instructions = processor_name(), torch.backends.cpu.get_cpu_capability()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "hardware": hardware,
        "instructions": instructions,
        "load": f"{os.getloadavg()[0]:.2f}",  # other running processes when the benchmark starts
        "torch": torch.__version__,
        "python": platform.python_version(),
        "triton": version("triton"),
        "liger": version("liger-kernel"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor_name() -> str:
    """Return the processor's name from Linux, or the machine type elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def version(package: str) -> str:
    """Return the version of a package, or an empty string if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def append(path: Path, rows: list[dict]) -> None:
    """Append rows to a CSV file, which is created if necessary.

    Raises:
        ValueError: the file has other columns.
    """
    columns = list(rows[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    existing = read(path)
    if existing and list(existing[0]) != columns:
        raise ValueError(f"{path} has other columns than the new rows. Move it elsewhere first.")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not existing:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; an empty list if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
