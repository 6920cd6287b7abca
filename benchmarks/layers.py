"""Layer benchmark: time and memory of DyT, Derf, LayerNorm, RMSNorm, the formula and a plain copy.

    python benchmarks/layers.py --shape 8x197x768   # your shape; prints ratios, writes nothing
    python benchmarks/layers.py --save              # three to four minutes on a CPU
    python benchmarks/layers.py --sweep             # numbers of rows at width 4096
    python benchmarks/layers.py --device cuda [--sweep]
    python benchmarks/layers.py --report            # results/layers.md and .svg from the CSV

All layers are built and compiled first and then timed in turn in one process, in a random order for
each round, so a busy machine slows them equally. A ratio is the median over rounds of the ratio to
nn.LayerNorm in the same round. With --save, each measurement is added to results/layers.csv.

- The copy is a lower bound: a forward pass reads the input and writes the output, and a backward
  pass reads the input and the output's gradient and writes the input's gradient.
- On a CPU, glibc is configured to reuse the memory of freed tensors.
- On a GPU, the cache is overwritten before each call. The GPU then waits while Python queues the
  pass: the measured time is the GPU's, not Python's.
- Memory is that of one forward and backward pass: the bytes saved in between, without parameters,
  and the peak allocation in addition to the input and the output's gradient.
- If Liger-Kernel is installed (it is not a requirement), its layers are timed on a GPU as well.
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
# On a CPU, smaller inputs are measured in more rounds.
MIN_CPU_ROUNDS, MAX_CPU_ROUNDS, GPU_ROUNDS = 41, 121, 101
WARM_UP = 3  # rounds that are not counted; compilers run in the first
KERNELS = {"cpu": cpu, "cuda": triton}
BASE, COPY = layers_report.BASE, layers_report.COPY


class BackendLayer(nn.Module):
    """DyT or Derf computed by a given backend."""

    def __init__(
        self, width: int, backend: str, squash: str = "tanh", *, bias: bool = True
    ) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.shift = nn.Parameter(torch.zeros(1)) if squash == "erf" else None
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            return dyt(x, self.alpha, self.weight, self.bias, backend=self.backend)
        return derf(x, self.alpha, self.shift, self.weight, self.bias, backend=self.backend)


def build_layers(
    width: int, dtype: torch.dtype, device: str, compiled: bool = True
) -> dict[str, nn.Module]:
    """Return the layers to time by name, nn.LayerNorm first."""
    kernel = "triton" if device == "cuda" or triton.REPLACES_CPU_KERNEL else "cpu"
    layers: dict[str, nn.Module] = {
        BASE: nn.LayerNorm(width),
        "nn.RMSNorm": nn.RMSNorm(width),
        layers_report.EAGER: BackendLayer(width, "reference"),
        layers_report.KERNEL: BackendLayer(width, kernel),
        "Derf, kernel": BackendLayer(width, kernel, "erf"),
    }
    if compiled:
        torch.compiler.reset()  # otherwise a second width triggers compilation for dynamic widths
        to_compile = {
            "nn.LayerNorm, compiled": nn.LayerNorm(width),
            "nn.RMSNorm, compiled": nn.RMSNorm(width),
            "DyT, formula compiled": BackendLayer(width, "reference"),
            "DyT, kernel in a compiled graph": BackendLayer(width, kernel),
        }
        for name, layer in to_compile.items():
            layers[name] = torch.compile(layer.to(device, dtype))
    if device == "cuda":
        layers |= liger_layers(width)
    return {name: layer.to(device, dtype) for name, layer in layers.items()}


def liger_layers(width: int) -> dict[str, nn.Module]:
    """Return Liger-Kernel's layers, or an empty dict if it is not installed."""
    try:
        from liger_kernel.transformers import LigerLayerNorm, LigerRMSNorm
        from liger_kernel.transformers.dyt import LigerDyT
    except ImportError:
        return {}
    # In place, its backward pass would overwrite the gradient that all layers share.
    return {
        "Liger DyT": LigerDyT(width),
        "Liger RMSNorm": LigerRMSNorm(width, in_place=False),
        "Liger LayerNorm": LigerLayerNorm(width),
    }


@dataclass(frozen=True)
class TimedCall:
    """`run` is timed; its argument is the result of `prepare`, which is not timed."""

    prepare: Callable[[], Any]
    run: Callable[[Any], None]


def no_preparation() -> None:
    pass


def layer_call(layer: nn.Module, x: Tensor, grad: Tensor, pass_: str) -> TimedCall:
    """Return one pass of a layer, which allocates its results, as in a network."""
    inputs = [x, *layer.parameters()]

    def forward(_: None) -> None:
        with torch.no_grad():
            layer(x)

    def backward(y: Tensor) -> None:
        torch.autograd.grad(y, inputs, grad)

    def both(_: None) -> None:
        torch.autograd.grad(layer(x), inputs, grad)

    if pass_ == "backward":
        return TimedCall(lambda: layer(x), backward)
    return TimedCall(no_preparation, forward if pass_ == "forward" else both)


def copy_call(x: Tensor, grad: Tensor, pass_: str) -> TimedCall:
    """Return the reads and writes that a pass requires at least, as a lower bound."""

    def run(_: None) -> None:
        with torch.no_grad():
            if pass_ != "backward":
                x.clone()
            if pass_ != "forward":
                torch.add(x, grad)

    return TimedCall(no_preparation, run)


def cpu_seconds(call: TimedCall) -> float:
    """Return the wall-clock seconds of a call."""
    prepared = call.prepare()
    started = time.perf_counter()
    call.run(prepared)
    return time.perf_counter() - started


class CudaClock:
    """Timer of a call on the GPU, with a cache that contains none of its data.

    Before the call, the GPU waits for longer than Python took to queue it before, at its fastest.
    """

    FLUSH_BYTES = 2**28  # larger than the L2 cache
    FIRST_WAIT, MAX_WAIT = 1e-3, 20e-3  # seconds
    CYCLES = 2e9  # of the GPU in a second

    def __init__(self) -> None:
        self.flush_buffer = torch.empty(self.FLUSH_BYTES, dtype=torch.int8, device="cuda")
        self.waits: dict[TimedCall, float] = {}

    def __call__(self, call: TimedCall) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        prepared = call.prepare()
        self.flush_buffer.zero_()
        torch.cuda._sleep(int(self.CYCLES * self.waits.get(call, self.FIRST_WAIT)))
        start.record()
        began = time.perf_counter()
        call.run(prepared)
        queued = time.perf_counter() - began
        end.record()
        end.synchronize()
        wait = min(0.3e-3 + 1.5 * queued, self.MAX_WAIT)
        self.waits[call] = min(wait, self.waits.get(call, self.MAX_WAIT))
        return start.elapsed_time(end) / 1e3


def measure(
    calls: dict[str, TimedCall],
    rounds: int,
    seconds: Callable[[TimedCall], float],
    warm_up: int = WARM_UP,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; each round has a different random order.

    In a fixed order, the same predecessor would always determine the state of the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffle = random.Random(0).shuffle
    names = list(calls)
    for _ in range(warm_up + rounds):
        shuffle(names)
        for name in names:
            times[name].append(seconds(calls[name]))
    return {name: values[warm_up:] for name, values in times.items()}


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes that the forward pass saves for the backward pass, without parameters."""
    parameter_addresses = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    saved: dict[int, Tensor] = {}  # the values keep the tensors alive, as addresses may be reused

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameter_addresses:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def peak_bytes(call: TimedCall, device: str) -> int:
    """Return the peak allocation of a call, which must have been warmed up before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call.run(call.prepare())
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as profile:
        call.run(call.prepare())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    allocated = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak


def rows(
    shape: tuple[int, ...],
    dtype: str,
    args: argparse.Namespace,
    environment: dict[str, Any],
    seconds: Callable[[TimedCall], float],
) -> list[dict]:
    """Return a CSV row for each layer and pass at one shape and dtype."""
    x = torch.randn(shape).to(args.device, DTYPES[dtype]).requires_grad_()
    grad = torch.randn(shape).to(args.device, DTYPES[dtype])
    layers = build_layers(shape[-1], DTYPES[dtype], args.device, args.compiled)
    rounds = args.rounds or default_rounds(args.device, x.numel())
    result = []
    for pass_ in args.passes:
        calls = {name: layer_call(layer, x, grad, pass_) for name, layer in layers.items()}
        times = measure({**calls, COPY: copy_call(x, grad, pass_)}, rounds, seconds)
        for name, values in times.items():
            memory = {"kept_bytes": "", "peak_bytes": ""}
            if pass_ == "forward+backward" and name != COPY:
                memory["kept_bytes"] = saved_bytes(layers[name], x)
                memory["peak_bytes"] = peak_bytes(calls[name], args.device)
            ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
            head = {"layer": name, "pass": pass_, "dtype": dtype, "shape": format_shape(shape)}
            result.append(
                {
                    **head,
                    "rounds": rounds,
                    **percentile_columns("ms", [1e3 * v for v in values], "{:.4f}"),
                    **percentile_columns("ratio", ratios, "{:.3f}"),
                    **memory,
                    **environment,
                }
            )
    return result


def default_rounds(device: str, elements: int) -> int:
    """Return enough rounds to span more than one busy second, but few enough to wait for."""
    if device == "cuda":
        return GPU_ROUNDS
    return max(MIN_CPU_ROUNDS, min(MAX_CPU_ROUNDS, MIN_CPU_ROUNDS * 2**24 // elements))


def percentile_columns(name: str, values: list[float], form: str) -> dict[str, str]:
    names = (f"{name}_p10", f"{name}_median", f"{name}_p90")
    return {n: form.format(v) for n, v in zip(names, measuring.percentiles(values), strict=True)}


def format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def parse_shape(argument: str) -> tuple[int, ...]:
    try:
        return tuple(measuring.positive_int(size) for size in argument.split("x"))
    except argparse.ArgumentTypeError:
        message = f"{argument!r} is not a shape such as 8x197x768"
        raise argparse.ArgumentTypeError(message) from None


def parse_args() -> argparse.Namespace:
    positive_int = measuring.positive_int
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="write layers.md and layers.svg")
    parser.add_argument("--save", action="store_true", help="add the rows to results/layers.csv")
    parser.add_argument("--device", choices=KERNELS, default="cpu")
    parser.add_argument(
        "--rounds", type=positive_int, help="(default: 41 to 121 on a CPU, 101 on a GPU)"
    )
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_argument("--shape", nargs="+", type=parse_shape, help="for example 8x197x768")
    parser.add_argument(
        "--sweep", action="store_true", help=f"measure several numbers of rows of {WIDTH} instead"
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--passes", nargs="+", choices=PASSES["cuda"], help="(default: all)")
    parser.add_argument(
        "--no-compile", action="store_false", dest="compiled", help="omit torch.compile"
    )
    args = parser.parse_args()
    if args.report:
        return args
    if args.sweep and args.shape:
        parser.error("--sweep and --shape both select the shapes; pass only one of them")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, but torch finds none on this machine")
    kernel = KERNELS[args.device]
    if kernel.PROBLEM is not None:
        parser.error(f"the kernel is missing: {kernel.PROBLEM}. {kernel.REMEDY}")
    sweep = [(n, WIDTH) for n in ROWS[args.device]]
    args.shapes = sweep if args.sweep else args.shape or SHAPES
    args.passes = args.passes or PASSES[args.device]
    return args


def main() -> None:
    args = parse_args()
    if args.report:
        layers_report.write()
        return
    measuring.reuse_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    environment = measuring.environment(args.device)
    seconds = CudaClock() if args.device == "cuda" else cpu_seconds
    measured = []
    for shape in args.shapes:
        for dtype in args.dtype:
            print(f"{format_shape(shape)}, {dtype} …", flush=True)
            measured += rows(shape, dtype, args, environment, seconds)
            torch.cuda.empty_cache()
    if args.save:
        measuring.append(layers_report.CSV, measured)
    print(layers_report.markdown(measured, with_targets=False))


if __name__ == "__main__":
    main()
