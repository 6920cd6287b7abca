"""Floors of the card: copy bandwidth, matrix products, the cost of a launch and of Python."""

from __future__ import annotations

import statistics
from functools import partial

import torch
from torch import Tensor

from dyt import DyT
from gpu_sections import Part, Row, timing

COPIES = {"cuda": ((4096, 4096), (32768, 4096), (2**17, 4096)), "cpu": ((64, 4096),)}
MATRIX = {"cuda": 8192, "cpu": 128}
ROUNDS = {"cuda": 51, "cpu": 5}
LAUNCHES = 200


def parts(device: str) -> list[Part]:
    return [
        Part(name="card", measure=partial(card, device)),
        Part(name="copy", measure=partial(copy, device), gigabytes=4),
        Part(name="matrix product", measure=partial(matrix_product, device)),
        Part(name="launch", measure=partial(launch, device)),
        Part(name="launch path", measure=partial(launch_path, device)),
    ]


def row(quantity: str, value: float | str, unit: str) -> Row:
    shown = value if isinstance(value, str) else f"{value:.4g}"
    return {"quantity": quantity, "value": shown, "unit": unit}


def card(device: str) -> list[Row]:
    """Return the memory, multiprocessors and L2 cache of the card."""
    if device == "cpu":
        return [row("processors", torch.get_num_threads(), "threads")]
    found = torch.cuda.get_device_properties(0)
    return [
        row("memory", found.total_memory / 2**30, "GiB"),
        row("multiprocessors", found.multi_processor_count, ""),
        row("L2 cache", found.L2_cache_size / 2**20, "MiB"),
    ]


def copy(device: str) -> list[Row]:
    """Return the bytes per second, read and written, of copies of bf16 matrices."""
    rows = []
    for shape in COPIES[device]:
        x = torch.randn(shape, device=device).bfloat16()
        y = torch.empty_like(x)
        times = timing.microseconds({"copy": partial(y.copy_, x)}, device, ROUNDS[device])
        median = statistics.median(times["copy"])
        name = f"copy of {shape[0]} × {shape[1]}, bf16"
        rows.append(row(name, 2 * x.nbytes / median / 1e6, "TB/s"))
        rows.append(row(f"{name}, time", median, "µs"))
    return rows


def matrix_product(device: str) -> list[Row]:
    """Return the rate of a bf16 product of square matrices with random elements."""
    n = MATRIX[device]
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    times = timing.microseconds({"product": lambda: a @ b}, device, ROUNDS[device])
    median = statistics.median(times["product"])
    return [row(f"product of {n} × {n}, bf16", 2 * n**3 / median / 1e6, "TFLOP/s")]


def launch(device: str) -> list[Row]:
    """Return the time per kernel of many tiny ones, launched one by one and by a CUDA graph."""
    x = torch.zeros(1, device=device)

    def tiny_kernels() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    of_launch = timing.python_microseconds(tiny_kernels, 1) / LAUNCHES
    rows = [row("CPU time of a torch launch", of_launch, "µs")]
    if device == "cpu":
        return rows
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tiny_kernels()
    times = timing.microseconds({"graph": graph.replay}, device, ROUNDS[device])
    median = statistics.median(times["graph"])
    return [*rows, row("kernel of a CUDA graph", median / LAUNCHES, "µs")]


def launch_path(device: str) -> list[Row]:
    """Return the CPU time of a DyT layer's call with real launches of small kernels."""
    layer = DyT(64).to(device, torch.bfloat16)
    x = torch.randn(4, 64, device=device).bfloat16()
    calls, rounds = (200, 15) if device == "cuda" else (1, 1)

    def without_gradient() -> Tensor:
        with torch.no_grad():
            return layer(x)

    def forward() -> Tensor:
        return layer(x)

    gradient = torch.ones_like(x)
    parameters = list(layer.parameters())

    def both() -> None:
        torch.autograd.grad(layer(x), parameters, gradient)

    timed = {"no gradient": without_gradient, "forward": forward, "forward and backward": both}
    return [
        row(
            f"CPU time of a DyT call, {name}", timing.python_microseconds(call, calls, rounds), "µs"
        )
        for name, call in timed.items()
    ]
