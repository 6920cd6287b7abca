"""Times DyT and Derf beside the norm layers they replace, the formula, and a copy of the bytes.

    python benchmarks/layers.py                     # three to four minutes on a CPU
    python benchmarks/layers.py --sweep             # rows from few to many, at width 4096
    python benchmarks/layers.py --device cuda [--sweep]
    python benchmarks/layers.py --report            # results/layers.md and .svg from the CSV

Everything is built and compiled first, and the contenders then take turns in one process, in an
order drawn for each round, so that a busy machine slows them alike; a ratio is the median over
rounds of the ratio to nn.LayerNorm in the same round. Each measurement is a row of
results/layers.csv.

- The copy is the floor: a forward pass reads the input and writes the output, and a backward pass
  reads the input and the output's gradient and writes the input's.
- On a CPU, glibc is told to keep the memory that tensors give back.
- On a GPU, what the cache holds is replaced before each call, and the GPU waits for a millisecond
  before it, so that the calls of a pass are queued by then: the time is the GPU's, not Python's.
- Memory is that of one forward and backward pass: the bytes kept in between, parameters apart, and
  the most that was allocated at a time beside the input and the output's gradient.
- With Liger-Kernel installed (it is none of the requirements), a GPU times its layers as well.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import layers_report
import measuring
import torch
from torch import Tensor, nn

from dyt.backends import cpu, triton
from dyt.functional import derf, dyt

SHAPES = [(8, 197, 768), (4, 1024, 1024), (1, 4096, 4096)]
WIDTH = 4096
ROWS = {"cpu": (256, 1024, 4096), "cuda": tuple(2**n for n in range(8, 16))}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {
    "cpu": ("forward", "forward+backward"),
    "cuda": ("forward", "backward", "forward+backward"),
}
FEWEST, MOST, ON_GPU = 41, 121, 101  # rounds: on a CPU, the more the smaller the input is
WARM_UP = 3  # rounds that are not counted, in the first of which compilers run
KERNELS = {"cpu": cpu, "cuda": triton}
BASE, COPY = layers_report.BASE, layers_report.COPY


class Function(nn.Module):
    """DyT or Derf by one backend, with parameters of its own."""

    def __init__(self, width: int, backend: str, squash: str = "tanh") -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.shift = nn.Parameter(torch.zeros(1)) if squash == "erf" else None
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            return dyt(x, self.alpha, self.weight, self.bias, backend=self.backend)
        return derf(x, self.alpha, self.shift, self.weight, self.bias, backend=self.backend)


def contenders(
    width: int, dtype: torch.dtype, device: str, compiled: bool = True
) -> dict[str, nn.Module]:
    """The layers to time, by name; nn.LayerNorm comes first."""
    kernel = "triton" if device == "cuda" else "cpu"
    layers: dict[str, nn.Module] = {
        BASE: nn.LayerNorm(width),
        "nn.RMSNorm": nn.RMSNorm(width),
        layers_report.EAGER: Function(width, "reference"),
        layers_report.KERNEL: Function(width, kernel),
        "Derf, kernel": Function(width, kernel, "erf"),
    }
    if compiled:
        torch.compiler.reset()  # else a new width is compiled for widths of any size
        to_compile = {
            "nn.LayerNorm, compiled": nn.LayerNorm(width),
            "nn.RMSNorm, compiled": nn.RMSNorm(width),
            "DyT, formula compiled": Function(width, "reference"),
            "DyT, kernel in a compiled graph": Function(width, kernel),
        }
        for name, layer in to_compile.items():
            layers[name] = torch.compile(layer.to(device, dtype))
    if device == "cuda":
        layers |= liger(width)
    return {name: layer.to(device, dtype) for name, layer in layers.items()}


def liger(width: int) -> dict[str, nn.Module]:
    """Liger-Kernel's layers, where it is installed."""
    try:
        from liger_kernel.transformers import LigerRMSNorm
        from liger_kernel.transformers.dyt import LigerDyT
    except ImportError:
        return {}
    # In place, its backward pass would write into the gradient that every contender is given.
    return {
        "Liger DyT": LigerDyT(width),
        "Liger RMSNorm": LigerRMSNorm(width, in_place=False),
    }


@dataclass(frozen=True)
class Call:
    """What is timed: `run`, given what `prepare` made before the clock started."""

    prepare: Callable[[], Any]
    run: Callable[[Any], None]


def nothing() -> None:
    pass


def call(layer: nn.Module, x: Tensor, grad: Tensor, which: str) -> Call:
    """One pass of a layer; it allocates its results, as in a network."""
    inputs = [x, *layer.parameters()]

    def forward(_: None) -> None:
        with torch.no_grad():
            layer(x)

    def backward(y: Tensor) -> None:
        torch.autograd.grad(y, inputs, grad)

    def both(_: None) -> None:
        torch.autograd.grad(layer(x), inputs, grad)

    if which == "backward":
        return Call(lambda: layer(x), backward)
    return Call(nothing, forward if which == "forward" else both)


def copy(x: Tensor, grad: Tensor, which: str) -> Call:
    """The floor: the reads and writes that a pass cannot do without."""

    def run(_: None) -> None:
        with torch.no_grad():
            if which != "backward":
                x.clone()
            if which != "forward":
                torch.add(x, grad)

    return Call(nothing, run)


def cpu_seconds(call: Call) -> float:
    prepared = call.prepare()
    started = time.perf_counter()
    call.run(prepared)
    return time.perf_counter() - started


class CudaClock:
    """Seconds of a call on the GPU, with nothing of its data in the cache."""

    BYTES = 2**28  # more than a cache of level 2 holds
    CYCLES = 2_000_000  # about a millisecond, in which Python queues the call

    def __init__(self) -> None:
        self.flush = torch.empty(self.BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        prepared = call.prepare()
        self.flush.zero_()
        torch.cuda._sleep(self.CYCLES)
        start.record()
        call.run(prepared)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def measure(
    calls: dict[str, Call], rounds: int, seconds: Callable[[Call], float]
) -> dict[str, list[float]]:
    """Seconds of each call in each round; each round has an order of its own.

    In a fixed order, a call always finds the cache as one and the same other has left it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffle = random.Random(0).shuffle
    names = list(calls)
    for _ in range(WARM_UP + rounds):
        shuffle(names)
        for name in names:
            times[name].append(seconds(calls[name]))
    return {name: values[WARM_UP:] for name, values in times.items()}


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Of tensors that the forward pass keeps for the backward pass, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors as well, so that no address is used again

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_bytes(once: Call, device: str) -> int:
    """The most that a call allocated at a time; it has been warmed up before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once.run(once.prepare())
        return torch.cuda.max_memory_allocated() - before
    on = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=on, profile_memory=True, acc_events=True) as seen:
        once.run(once.prepare())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    now = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


def rows(
    shape: tuple[int, ...],
    dtype: str,
    given: argparse.Namespace,
    where: dict[str, Any],
    seconds: Callable[[Call], float],
) -> list[dict]:
    """A row for each layer and pass at one shape and dtype."""
    x = torch.randn(shape).to(given.device, DTYPES[dtype]).requires_grad_()
    grad = torch.randn(shape).to(given.device, DTYPES[dtype])
    layers = contenders(shape[-1], DTYPES[dtype], given.device, given.compiled)
    rounds = given.rounds or default_rounds(given.device, x.numel())
    found = []
    for which in given.passes:
        calls = {name: call(layer, x, grad, which) for name, layer in layers.items()}
        times = measure({**calls, COPY: copy(x, grad, which)}, rounds, seconds)
        for name, values in times.items():
            memory = {"kept_bytes": "", "peak_bytes": ""}
            if which == "forward+backward" and name != COPY:
                memory["kept_bytes"] = kept_bytes(layers[name], x)
                memory["peak_bytes"] = peak_bytes(calls[name], given.device)
            ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
            head = {"layer": name, "pass": which, "dtype": dtype, "shape": text(shape)}
            found.append(
                {
                    **head,
                    "rounds": rounds,
                    **columns("ms", [1e3 * v for v in values], "{:.4f}"),
                    **columns("ratio", ratios, "{:.3f}"),
                    **memory,
                    **where,
                }
            )
    return found


def default_rounds(device: str, elements: int) -> int:
    """Enough that a busy second does not cover them all, and few enough to wait for."""
    if device == "cuda":
        return ON_GPU
    return max(FEWEST, min(MOST, FEWEST * 2**24 // elements))


def columns(name: str, values: list[float], form: str) -> dict[str, str]:
    names = (f"{name}_p10", f"{name}_median", f"{name}_p90")
    return {n: form.format(v) for n, v in zip(names, measuring.spread(values), strict=True)}


def text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def shape_of(argument: str) -> tuple[int, ...]:
    try:
        return tuple(measuring.positive(size) for size in argument.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{argument!r} is no shape such as 8x197x768") from None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="make layers.md and layers.svg")
    parser.add_argument("--device", choices=KERNELS, default="cpu")
    parser.add_argument(
        "--rounds", type=measuring.positive, help="(default: 41 to 121 on a CPU, 101 on a GPU)"
    )
    parser.add_argument("--threads", type=measuring.positive, default=1)
    parser.add_argument("--shape", nargs="+", type=shape_of, help="such as 8x197x768")
    parser.add_argument("--sweep", action="store_true", help=f"other shapes: rows of {WIDTH}")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--passes", nargs="+", choices=PASSES["cuda"], help="(default: all)")
    parser.add_argument(
        "--no-compile", action="store_false", dest="compiled", help="leave out torch.compile"
    )
    given = parser.parse_args()
    if given.report:
        return given
    if given.sweep and given.shape:
        parser.error("--sweep and --shape both say which shapes: pass one of them")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch finds none here")
    kernel = KERNELS[given.device]
    if kernel.PROBLEM is not None:
        parser.error(f"the kernel is missing: {kernel.PROBLEM}. {kernel.REMEDY}")
    sweep = [(n, WIDTH) for n in ROWS[given.device]]
    given.shapes = sweep if given.sweep else given.shape or SHAPES
    given.passes = given.passes or PASSES[given.device]
    return given


def main() -> None:
    given = parse()
    if given.report:
        layers_report.write()
        return
    measuring.keep_memory()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    where = measuring.place(given.device)
    seconds = CudaClock() if given.device == "cuda" else cpu_seconds
    found = []
    for shape in given.shapes:
        for dtype in given.dtype:
            print(f"{text(shape)}, {dtype} …", flush=True)
            found += rows(shape, dtype, given, where, seconds)
            torch.cuda.empty_cache()
    measuring.append(layers_report.CSV, found)
    print(layers_report.markdown(found))


if __name__ == "__main__":
    main()
