"""Launch-path benchmark: the Python time of a DyT call on a GPU up to the launch, without a GPU.

    python benchmarks/launch_path.py [--save]       # a few seconds

The kernels are replaced by functions that do nothing, and CPU tensors take CUDA tensors' path.
Not included: Triton's launcher in C, and the driver. Allocations are the CPU's, which take another
time than a GPU's. Times are CPU times of this process, medians over rounds in which the calls take
turns. nn.LayerNorm is measured for comparison; it computes its 64 numbers.
With --save, the rows are added to results/launch_path.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import measuring

if __name__ == "__main__":
    measuring.interpret_triton()

import time

import torch
from torch import nn

from dyt import DyT
from dyt.backends import triton, triton_choice
from dyt.functional import compute

CSV = measuring.RESULTS / "launch_path.csv"
CALLS, ROUNDS = 300, 21
SHAPE = (4, 16)
WITHOUT_GRADIENT = ", no gradient"


class StubKernel:
    """A kernel that does nothing; its launches compile to functions that do nothing."""

    def __init__(self, kernel: Any) -> None:
        self.arg_names = kernel.arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return lambda *tensors, **constants: StubCompiled()


class StubCompiled:
    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: None


class StubKernels:
    """The module of the kernels, with stubs."""

    INTERPRETED = False

    def __init__(self) -> None:
        from dyt.backends import triton_kernels

        for name in ("forward", "backward", "add_partial_sums"):
            setattr(self, name, StubKernel(getattr(triton_kernels, name)))


def paths() -> dict[str, Callable[[], Any]]:
    """Return the calls to time by name. The kernels are stubs from then on, in this process."""
    stubs = StubKernels()
    triton_choice._kernels = lambda: stubs
    triton._find_forward.cache_clear()
    triton._find_backward.cache_clear()
    x = torch.randn(SHAPE).bfloat16()
    layer, norm = (kind(SHAPE[-1]).bfloat16() for kind in (DyT, nn.LayerNorm))
    parameters = (layer.alpha, None, layer.weight, layer.bias)
    arguments = (x, *parameters, "tanh", -1)
    grad = torch.ones_like(x)

    return {
        "function, no gradient": lambda: compute(*arguments),
        "function": lambda: compute(*arguments),
        "layer, no gradient": lambda: layer(x),
        "layer": lambda: layer(x),
        "operator, no gradient": lambda: torch.ops.dyt.dyt.default(*arguments, False),
        "operator": lambda: torch.ops.dyt.dyt.default(*arguments, False),
        "gradients": lambda: triton.backward(grad, *arguments, False),
        "nn.LayerNorm, no gradient": lambda: norm(x),
        "nn.LayerNorm": lambda: norm(x),
    }


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> list[dict[str, Any]]:
    """Return a row for each path: µs of CPU time per call."""
    times: dict[str, list[float]] = {}
    timed = paths()
    for number in range(rounds + 1):
        for name, call in timed.items():
            with torch.set_grad_enabled(not name.endswith(WITHOUT_GRADIENT)):
                started = time.process_time()
                for _ in range(calls):
                    call()
                microseconds = 1e6 * (time.process_time() - started) / calls
            if number:  # the first round warms up
                times.setdefault(name, []).append(microseconds)
    environment = measuring.environment("cpu")
    rows = []
    for name, values in times.items():
        p10, median, p90 = measuring.percentiles(values)
        shown = {"us_p10": f"{p10:.2f}", "us_median": f"{median:.2f}", "us_p90": f"{p90:.2f}"}
        rows.append({"path": name, "rounds": rounds, **shown, **environment})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| path | µs per call (10–90 %) |", "|---|---|"]
    for row in rows:
        lines.append(f"| {row['path']} | {row['us_median']} ({row['us_p10']}–{row['us_p90']}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="add the rows to the CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure()
    if args.save:
        measuring.append(CSV, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
