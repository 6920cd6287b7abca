"""Training steps of the DNA networks over the sequence length, on a CPU: time and memory.

    python benchmarks/dna.py [--network hyenadna] [--lengths 1024,32768] [--tokens 8192] [--save]
    python benchmarks/dna.py --official PATH [...]   # beside the official code in a checkout
    python benchmarks/dna.py --report                # the plot of the saved measurements

A step is forward pass, next-token loss, backward pass and AdamW on random bases, in float32. Time
is the process's CPU time. Memory is the size of the tensors that autograd saves for the backward
pass, without the parameters. With --official the official network takes over our weights, and the
two are timed in turn in one process, the first of the two changing from round to round, so that
other processes slow them equally; a ratio is ours over official, its median and its 10 to 90 %
range over the rounds. Freed memory goes back to the system, as by default, and new pages are mapped
in every step; --reuse-memory keeps it, and the heap grows to three times the peak at 131,072 bases.
With --save, each length becomes a row of results/dna.csv.

The networks are those of CVPR Table 6 by their size: HyenaDNA of width 128 with 2 layers, Caduceus
of width 118 with 4.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

import measuring
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_caduceus.model import build_language_model as build_caduceus
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.model import build_language_model as build_hyenadna
from dyt_hyenadna.network_config import HyenaNetwork

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
import dna_official

CSV = measuring.RESULTS / "dna.csv"
LENGTHS = tuple(2**power for power in range(10, 18))
SPECIAL_TOKENS = 2
BASES = (7, 11)  # ids of A, C, G and T: from the first to below the second
DEFAULT, REUSED = "returned", "reused"  # what the allocator does with freed memory
WARM_UP = 1  # rounds that are not counted

BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "hyenadna": lambda length: build_hyenadna(
        HyenaNetwork(width=128, layers=2, max_length=length + SPECIAL_TOKENS), 0
    ),
    "caduceus-ph": lambda _: build_caduceus(CaduceusNetwork(width=118, layers=4, variant="ph"), 0),
    "caduceus-ps": lambda _: build_caduceus(CaduceusNetwork(width=118, layers=4, variant="ps"), 0),
}
"""Name → function of the sequence length that returns a module from ids (B, L) to logits."""
OFFICIAL: dict[str, Callable[[Path, int, nn.Module], nn.Module]] = {
    "hyenadna": dna_official.hyenadna
}
"""Name → function of the checkout, the length and our network that returns the official one."""


def training_step(model: nn.Module, ids: Tensor) -> Callable[[], float]:
    """Return a function that makes one training step and returns its CPU time in seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> float:
        start = time.process_time()
        logits = model(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - start

    return step


def saved_megabytes(model: nn.Module, ids: Tensor) -> float:
    """Return the size of what autograd saves for the backward pass, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        logits = model(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    del loss
    return sum(saved.values()) / 1e6


def measure(name: str, length: int, batch: int, rounds: int, official: Path | None) -> dict:
    """Return one row: times and memory of a network, and ratios to the official one if given."""
    ours = BUILDERS[name](length)
    ids = torch.randint(*BASES, (batch, length), generator=torch.Generator().manual_seed(0))
    models = [ours]
    if official is not None:
        models.append(OFFICIAL[name](official, length, ours))
    memory = [saved_megabytes(model, ids) for model in models]
    steps = [training_step(model, ids) for model in models]
    times: list[list[float]] = []
    for index in range(WARM_UP + rounds):
        order = range(len(steps)) if index % 2 else reversed(range(len(steps)))
        measured = {i: steps[i]() for i in order}
        times.append([measured[i] for i in range(len(steps))])
    times = times[WARM_UP:]
    low, median, high = measuring.percentiles([1000 * t[0] for t in times])
    row = {
        "network": name,
        "length": length,
        "batch": batch,
        "rounds": rounds,
        "memory": REUSED if reuses_memory() else DEFAULT,
        "ms_p10": f"{low:.1f}",
        "ms_median": f"{median:.1f}",
        "ms_p90": f"{high:.1f}",
        "us_per_token": f"{1000 * median / (batch * length):.2f}",
        "saved_mb": f"{memory[0]:.1f}",
        **dict.fromkeys(("official_ms", "ratio_p10", "ratio", "ratio_p90", "memory_ratio"), ""),
    }
    if official is not None:
        low, median, high = measuring.percentiles([ours / other for ours, other in times])
        row |= {
            "official_ms": f"{measuring.percentiles([1000 * t[1] for t in times])[1]:.1f}",
            "ratio_p10": f"{low:.3f}",
            "ratio": f"{median:.3f}",
            "ratio_p90": f"{high:.3f}",
            "memory_ratio": f"{memory[0] / memory[1]:.3f}",
        }
    return row


WIDTH, HEIGHT, LEFT, TOP = 460, 260, 60, 56  # of the plot's axes, in pixels
COLORS = {"hyenadna": "#4477aa", "caduceus-ph": "#ee6677", "caduceus-ps": "#228833"}
GROWTH = {"hyenadna": math.log2}
"""Network → growth of the cost per base with the length, if it is not constant."""


def svg(rows: list[dict[str, str]]) -> str:
    """Return the plot of the newest measurements: CPU time per base over the length.

    Dashed lines have the growth that the algorithms promise, from each network's first point.
    """
    newest = {(row["network"], int(row["length"])): row for row in rows}
    costs = [float(row["us_per_token"]) for row in newest.values()]
    lengths = sorted({length for _, length in newest})
    low, high = math.floor(math.log2(min(costs))), math.ceil(math.log2(max(costs)))

    def place(length: int, value: float) -> tuple[float, float]:
        index = lengths.index(length) / max(1, len(lengths) - 1)
        return LEFT + index * WIDTH, TOP + HEIGHT * (high - math.log2(value)) / max(1, high - low)

    def text(x: float, y: float, words: str, style: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'

    def line(points: list[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return f'<polyline points="{path}" fill="none" {style}/>'

    hardware = {f"{r['hardware']}, {r['threads']} thread" for r in newest.values()}
    title = "CPU time of a training step, µs per base, over the sequence length"
    parts = [text(10, 16, title), text(10, 30, "; ".join(sorted(hardware)))]
    parts.append(text(10, 44, "Dashed: n log n (HyenaDNA) and n (Caduceus)"))
    for length in lengths:
        x, y = place(length, 2**low)
        parts.append(text(x, y + 16, f"{length // 1024}k", 'text-anchor="middle"'))
    for power in range(low, high + 1):
        _, y = place(lengths[0], 2**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, str(2**power), 'text-anchor="end"'))
    for name in dict.fromkeys(name for name, _ in newest):
        values = {
            length: float(row["us_per_token"])
            for (network, length), row in sorted(newest.items())
            if network == name
        }
        growth = GROWTH.get(name, lambda length: 1.0)
        first = min(values)
        promised = [
            place(length, values[first] * growth(length) / growth(first)) for length in values
        ]
        points = [place(length, value) for length, value in values.items()]
        color = f'stroke="{COLORS[name]}"'
        parts += [line(points, color), line(promised, f'{color} stroke-dasharray="4 4"')]
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLORS[name]}"/>' for x, y in points
        ]
        parts.append(text(points[0][0] + 8, points[0][1] - 8, name, f'fill="{COLORS[name]}"'))
    size = f'width="{LEFT + WIDTH + 40}" height="{TOP + HEIGHT + 30}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-size="11">', background, *parts, "</svg>", ""])


def report() -> None:
    """Write results/dna.svg from results/dna.csv."""
    rows = [row for row in measuring.read(CSV) if row["memory"] == DEFAULT]
    if not rows:
        raise SystemExit(f"{CSV} has no measurements yet. Run `python benchmarks/dna.py --save`.")
    CSV.with_suffix(".svg").write_text(svg(rows), encoding="utf-8")
    print(CSV.with_suffix(".svg"))


def reuses_memory() -> bool:
    """True if this process has the allocator of ``measuring.reuse_freed_memory``."""
    return all(os.environ.get(name) == value for name, value in measuring.REUSE_MEMORY.items())


def lengths_of(text: str) -> list[int]:
    return [measuring.positive_int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=BUILDERS, default="hyenadna")
    parser.add_argument("--lengths", type=lengths_of, default=LENGTHS, help="such as 1024,32768")
    tokens = "bases of a batch, rounded up to whole sequences (default 8192)"
    parser.add_argument("--tokens", type=measuring.positive_int, default=8192, help=tokens)
    parser.add_argument("--rounds", type=measuring.positive_int, default=5)
    parser.add_argument(
        "--official", type=Path, metavar="PATH", help="checkout of the official code"
    )
    parser.add_argument("--reuse-memory", action="store_true", help="keep freed memory in the heap")
    parser.add_argument("--save", action="store_true", help=f"add rows to {CSV.name}")
    parser.add_argument("--report", action="store_true", help="write the plot and measure nothing")
    options = parser.parse_args()
    if options.report:
        report()
        return
    if options.official is not None and options.network not in OFFICIAL:
        parser.error(f"--official: only {', '.join(OFFICIAL)} can be compared")
    if options.reuse_memory:
        measuring.reuse_freed_memory()
    torch.set_num_threads(1)
    columns = measuring.environment("cpu")
    for length in options.lengths:
        batch = -(-options.tokens // length)
        row = measure(options.network, length, batch, options.rounds, options.official)
        print(
            ", ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True
        )
        if options.save:
            measuring.append(CSV, [{**row, **columns}])


if __name__ == "__main__":
    main()
