"""Latency of LLaMA 7B with each norm, as in CVPR 2025, Table 7: bf16, one sequence of 4,096 tokens.

The paper prints seconds for 100 passes of all norm layers and of the model, inference (forward) and
training (forward and backward). Measured here: the norm layers of the model, one after the other;
one decoder block; and the whole model, by the task of Table 7 (``dyt_llama.latency``). "Identity"
has no norm layer: the difference to it is the cost of the norm within the network. The block is
also measured with DyT fused with its neighbours, and the kernels of a pass are counted.
"""

from __future__ import annotations

from functools import partial

import layers
import torch
from torch import Tensor, nn

from gpu_sections import Part, Row, timing
from gpu_sections.llama_block import (
    AddDyT,
    AddThenNorm,
    Block,
    DyTAfterProduct,
    DyTBeforeProduct,
    Sizes,
    rotary,
)

SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(width=32, heads=2, ffn=64, depth=2, tokens=16),
}
ROUNDS = {
    "cuda": {"layers": 21, "block": 41, "model": 7},
    "cpu": {"layers": 1, "block": 1, "model": 2},
}
GIGABYTES = {"layers": 8, "block": 8, "model": 60}
LIMITS = {"layers": 60, "block": 100}
PASSES = ("inference", "training")
DTYPE = torch.bfloat16
IDENTITY, RMS_NORM, FORMULA, KERNEL = "Identity", "nn.RMSNorm", "DyT", "DyT, kernel"
# Fusions of one block; only the first has a backward pass.
WITH_ADDITION = "DyT, kernel with the addition"
FUSED: dict[str, type[AddThenNorm]] = {
    WITH_ADDITION: AddDyT,
    "DyT in the product before it": DyTAfterProduct,
    "DyT in the product after it": DyTBeforeProduct,
}
NAMES = {
    "layers": (RMS_NORM, FORMULA, KERNEL),
    "block": (RMS_NORM, FORMULA, KERNEL, *FUSED, IDENTITY),
}
# The compiler tries its own templates of products, into which it can fuse the formula.
AUTOTUNED = (RMS_NORM, FORMULA, IDENTITY)
AUTOTUNE = {"max_autotune": True, "prologue_fusion": True, "epilogue_fusion": True}


def make_norm(name: str, width: int) -> nn.Module:
    """Return a norm layer with the arguments of LLaMA."""
    if name == IDENTITY:
        return nn.Identity()
    if name == RMS_NORM:
        return nn.RMSNorm(width, eps=1e-5)
    backend = "reference" if name == FORMULA else "triton"  # on a CPU, Triton's interpreter
    return layers.BackendLayer(width, backend, bias=False)


def parts(device: str) -> list[Part]:
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    network = Part(
        name="model",
        measure=partial(model_latencies, device),
        limit=150,
        requires=("transformers",),
        gigabytes=GIGABYTES["model"] if device == "cuda" else 1,
    )
    found = [
        Part(
            name=f"{what}, {mode}",
            measure=partial(latencies, device, what, mode),
            limit=LIMITS[what],
            gigabytes=GIGABYTES[what] if device == "cuda" else 1,
        )
        for what in ("block", "layers")
        for mode in modes[::-1]
    ]
    autotuned = Part(
        name="block, autotuned",
        measure=partial(latencies, device, "block", "autotuned"),
        limit=150,
        gigabytes=GIGABYTES["block"],
    )
    return [*found, network, *([autotuned] if device == "cuda" else [])]


def model_latencies(device: str) -> list[Row]:
    """Return a row for each variant and pass of the whole model, by the task of Table 7.

    Raises:
        RuntimeError: if a variant cannot be timed on this machine.
    """
    # Needs transformers, which the other parts do without.
    from dyt_llama.latency import COMPILED, time_variants
    from dyt_llama.latency_config import VARIANTS, Latency
    from dyt_llama.network_config import LLAMA_7B, Network

    sizes = SIZES[device]
    small = Network(
        width=sizes.width, depth=sizes.depth, heads=sizes.heads, kv_heads=sizes.heads, ffn=sizes.ffn
    )
    eager = tuple(name for name in VARIANTS if not name.endswith(COMPILED))
    measured = time_variants(
        Latency(
            network=LLAMA_7B if device == "cuda" else small,
            device="cuda" if device == "cuda" else "cpu",
            dtype="bfloat16",
            length=sizes.tokens,
            rounds=ROUNDS[device]["model"],
            warmup_rounds=2 if device == "cuda" else 1,
            variants=VARIANTS if device == "cuda" else eager,
        )
    )
    if measured.left_out:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in measured.left_out.items()))
    return [
        _row("model", mode, variant.removesuffix(COMPILED), pass_, [1e3 * s for s in seconds])
        for pass_, times in measured.times.items()
        for variant, seconds in times.items()
        for mode in ["layers compiled" if variant.endswith(COMPILED) else "eager"]
    ]


def latencies(device: str, what: str, mode: str) -> list[Row]:
    """Return a row for each norm and pass of the norm layers or of one block: ms of one pass.

    Of a block, also the norms' share, the difference to Identity in the same round, and the number
    of kernels.
    """
    sizes = SIZES[device]
    x = torch.randn(1, sizes.tokens, sizes.width, device=device).to(DTYPE)
    inputs = (x, torch.randn_like(x)) if what == "block" else (x,)
    grads = tuple(map(torch.randn_like, inputs))
    rotation = rotary(sizes, device, DTYPE)
    names = AUTOTUNED if mode == "autotuned" else NAMES[what]
    networks = {name: build(device, what, name, mode) for name in names}
    rows: list[Row] = []
    counted: list[timing.Call] = []
    for pass_ in PASSES if mode != "autotuned" else PASSES[:1]:
        calls: dict[str, timing.Call] = {
            name: partial(_run, network, inputs, grads, rotation, pass_)
            for name, network in networks.items()
            if pass_ == "inference" or name not in FUSED or name == WITH_ADDITION
        }
        candidates = {name: call for name, call in calls.items() if name in FUSED}
        calls = {name: call for name, call in calls.items() if name not in FUSED}
        calls |= timing.those_that_run(candidates)
        times = timing.microseconds(calls, device, ROUNDS[device][what])
        for name, values in times.items():
            row = _row(what, mode, name, pass_, [value / 1e3 for value in values])
            rows.append(row | (_norm_columns(values, times[IDENTITY]) if what == "block" else {}))
            counted.append(calls[name])
    if what == "block":  # after all times, because a profiler stays in the process
        for row, call in zip(rows, counted, strict=True):
            row["launches"] = timing.launches(call, device)
    return rows


def _norm_columns(values: list[float], without: list[float]) -> Row:
    """Return what the norms add to a block, from µs in the same rounds: ms, and per cent of it."""
    added = [a - b for a, b in zip(values, without, strict=True)]
    percent = [100 * a / b for a, b in zip(added, values, strict=True)]
    columns: Row = {}
    columns |= timing.statistics("norms_ms", [value / 1e3 for value in added], "{:.4f}")
    return columns | timing.statistics("norms_percent", percent)


def _row(what: str, mode: str, norm: str, pass_: str, milliseconds: list[float]) -> Row:
    row: Row = {"what": what, "mode": mode, "norm": norm, "pass": pass_}
    return row | timing.statistics("ms", milliseconds, "{:.4f}")


def build(device: str, what: str, name: str, mode: str) -> nn.Module:
    """Return the norm layers of the model, or one block; weights are N(0, 0.02)."""
    sizes = SIZES[device]
    norm = partial(make_norm, name, sizes.width)
    torch.manual_seed(0)
    with torch.device(device):
        network: nn.Module
        if what == "layers":
            network = _Chain(nn.ModuleList(norm() for _ in range(2 * sizes.depth + 1)))
        else:
            join = FUSED.get(name, AddThenNorm)
            network = Block(sizes, lambda: join(norm()))
    network.to(DTYPE)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    if mode != "eager":
        torch.compiler.reset()
        compile_parts(network, AUTOTUNE if mode == "autotuned" else {})
    return network


def compile_parts(network: nn.Module, options: dict[str, bool]) -> None:
    """Compile a block, or each of the norm layers; of equal ones, the first serves all."""
    for layer in network.layers if isinstance(network, _Chain) else [network]:
        layer.compile(dynamic=False, options=options or None)


class _Chain(nn.Module):
    """Norm layers, one after the other, so that each reads what the one before has written."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, rotation: object) -> tuple[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return (x,)


def _run(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    grads: tuple[Tensor, ...],
    rotation: tuple[Tensor, Tensor],
    pass_: str,
) -> None:
    if pass_ == "inference":
        with torch.no_grad():
            network(*inputs, rotation)
        return
    leaves = [x.detach().requires_grad_() for x in inputs]
    torch.autograd.backward(network(*leaves, rotation), grads)
    network.zero_grad(set_to_none=True)
