"""Times DyT against the norm layers it replaces, the eager formula, and a copy of the same bytes.

    python benchmarks/layers.py [--rounds 21] [--threads 1] [--shape 8x197x768 …] [--dtype …]

Everything is built once and the contenders alternate in one process, so that a busy machine slows
them alike; the figure is the median over rounds of the ratio to nn.LayerNorm in the same round.
The copy is the floor: a forward pass reads the input and writes the output, and a backward pass
reads the input and the output's gradient and writes the input's. glibc is told to keep the memory
that tensors give back: otherwise most of what is timed is the system handing out fresh pages. A row
of CSV for each measurement goes to benchmarks/results/layers.csv, and a table in Markdown to the
screen.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dyt.backends import cpu
from dyt.functional import dyt

SHAPES = [(8, 197, 768), (4, 1024, 1024), (1, 4096, 4096)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RESULTS = Path(__file__).parent / "results" / "layers.csv"
PASSES = ("forward", "forward+backward")
BASE = "nn.LayerNorm"
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc takes; larger tensors are mapped
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in large pages, where the system has them
}


class Function(nn.Module):
    """DyT by one backend, with parameters of its own."""

    def __init__(self, width: int, backend: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5, dtype=dtype))
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return dyt(x, self.alpha, self.weight, self.bias, backend=self.backend)


def layers(width: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    return {
        BASE: nn.LayerNorm(width, dtype=dtype),
        "nn.RMSNorm": nn.RMSNorm(width, dtype=dtype),
        "DyT, eager formula": Function(width, "reference", dtype),
        "DyT, CPU kernel": Function(width, "cpu", dtype),
    }


def calls(shape: tuple[int, ...], dtype: torch.dtype, which: str) -> dict[str, Callable]:
    """What is timed, by name; every call allocates its results, as in a network."""
    x = torch.randn(shape).to(dtype).requires_grad_()
    grad = torch.randn(shape).to(dtype)

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def both(layer: nn.Module) -> None:
        torch.autograd.grad(layer(x), [x, *layer.parameters()], grad)

    def copy() -> None:
        with torch.no_grad():
            x.clone()
            if which != "forward":
                torch.add(x, grad)

    run = forward if which == "forward" else both
    timed = {
        name: (lambda layer=layer: run(layer)) for name, layer in layers(shape[-1], dtype).items()
    }
    return {**timed, "copy (the floor)": copy}


def measure(timed: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 2):
        for name, call in timed.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: values[2:] for name, values in times.items()}


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def rows(shape: tuple[int, ...], dtype: str, which: str, rounds: int) -> list[dict]:
    times = measure(calls(shape, DTYPES[dtype], which), rounds)
    found = []
    for name, values in times.items():
        p10, *_, p90 = statistics.quantiles(values, n=10)
        ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
        r10, *_, r90 = statistics.quantiles(ratios, n=10)
        found.append(
            {
                "layer": name,
                "pass": which,
                "dtype": dtype,
                "shape": "x".join(map(str, shape)),
                "threads": torch.get_num_threads(),
                "rounds": rounds,
                "ms_p10": f"{p10 * 1e3:.4f}",
                "ms_median": f"{statistics.median(values) * 1e3:.4f}",
                "ms_p90": f"{p90 * 1e3:.4f}",
                "ratio_p10": f"{r10:.3f}",
                "ratio_median": f"{statistics.median(ratios):.3f}",
                "ratio_p90": f"{r90:.3f}",
                "hardware": processor(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
        )
    return found


def save(found: list[dict]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]))
        if new:
            writer.writeheader()
        writer.writerows(found)


def table(found: list[dict]) -> str:
    """Times of nn.LayerNorm, and everything else as a ratio to it (10% to 90% of the rounds)."""
    names = list(dict.fromkeys(row["layer"] for row in found))
    lines = [
        "| pass | dtype | shape | " + " | ".join(names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for start in range(0, len(found), len(names)):
        group = found[start : start + len(names)]
        first = group[0]
        cells = [f"{float(first['ms_median']):.2f} ms"]
        cells += [f"{r['ratio_median']} ({r['ratio_p10']} to {r['ratio_p90']})" for r in group[1:]]
        head = [first["pass"], first["dtype"], first["shape"]]
        lines.append("| " + " | ".join([*head, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", nargs="*", default=["x".join(map(str, s)) for s in SHAPES])
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, default=list(DTYPES))
    given = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    if cpu.PROBLEM is not None:
        parser.error(f"the CPU kernel is missing: {cpu.PROBLEM}. {cpu.REMEDY}")
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    shapes = [tuple(map(int, text.split("x"))) for text in given.shape]
    found = [
        row
        for which in PASSES
        for dtype in given.dtype
        for shape in shapes
        for row in rows(shape, dtype, which, given.rounds)
    ]
    save(found)
    print(table(found))


if __name__ == "__main__":
    main()
