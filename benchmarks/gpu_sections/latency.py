"""Latency of LLaMA 7B with each norm, as in CVPR 2025, Table 7: bf16, one sequence of 4,096 tokens.

The paper prints seconds for 100 passes of all norm layers and of the model, inference (forward) and
training (forward and backward). Measured here: the norm layers of the model, one after the other;
one decoder block; and the whole model, by the task of Table 7 (``dyt_llama.latency``). "Identity"
has no norm layer: the difference to it is the cost of the norm within the network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import layers
import torch
from torch import Tensor, nn

from gpu_sections import Part, Row, timing
from gpu_sections.llama_block import Block, Sizes, rotary

SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(width=32, heads=2, ffn=64, depth=2, tokens=8),
}
ROUNDS = {
    "cuda": {"layers": 21, "block": 41, "model": 7},
    "cpu": {"layers": 1, "block": 1, "model": 2},
}
GIGABYTES = {"layers": 8, "block": 8, "model": 60}
PASSES = ("inference", "training")
DTYPE = torch.bfloat16


def norms(width: int, device: str) -> dict[str, Callable[[], nn.Module]]:
    """Return the norm layers of the arms by name, with the arguments of LLaMA."""
    kernel = "triton"  # on a CPU, Triton's interpreter
    found: dict[str, Callable[[], nn.Module]] = {
        "nn.RMSNorm": partial(nn.RMSNorm, width, eps=1e-5),
        "DyT": partial(layers.BackendLayer, width, "reference", bias=False),
        "DyT, kernel": partial(layers.BackendLayer, width, kernel, bias=False),
        "Identity": nn.Identity,
    }
    return found


def parts(device: str) -> list[Part]:
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    network = Part(
        name="model",
        measure=partial(model_latencies, device),
        limit=150,
        requires=("transformers",),
        gigabytes=GIGABYTES["model"] if device == "cuda" else 1,
    )
    return [
        *(
            Part(
                name=f"{what}, {mode}",
                measure=partial(latencies, device, what, mode),
                limit={"layers": 60, "block": 100}[what],
                gigabytes=GIGABYTES[what] if device == "cuda" else 1,
            )
            for what in ("block", "layers")
            for mode in modes
        ),
        network,
    ]


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
    """Return a row for each norm and pass of the norm layers or of one block: ms of one pass."""
    sizes = SIZES[device]
    names = [name for name in norms(sizes.width, device) if what != "layers" or name != "Identity"]
    x = torch.randn(1, sizes.tokens, sizes.width, device=device).to(DTYPE)
    grad, rotation = torch.randn_like(x), rotary(sizes, device, DTYPE)
    networks = {name: build(device, what, name, mode) for name in names}
    rows: list[Row] = []
    for pass_ in PASSES:
        calls = {
            name: partial(_run, network, x, grad, rotation, pass_)
            for name, network in networks.items()
        }
        times = timing.microseconds(calls, device, ROUNDS[device][what])
        for name, values in times.items():
            rows.append(_row(what, mode, name, pass_, [value / 1e3 for value in values]))
    return rows


def _row(what: str, mode: str, norm: str, pass_: str, milliseconds: list[float]) -> Row:
    row: Row = {"what": what, "mode": mode, "norm": norm, "pass": pass_}
    return row | timing.statistics("ms", milliseconds, "{:.4f}")


def build(device: str, what: str, name: str, mode: str) -> nn.Module:
    """Return the norm layers of the model, or one block; weights are N(0, 0.02)."""
    sizes = SIZES[device]
    norm = norms(sizes.width, device)[name]
    torch.manual_seed(0)
    with torch.device(device):
        network: nn.Module
        if what == "layers":
            network = _Chain(nn.ModuleList(norm() for _ in range(2 * sizes.depth + 1)))
        else:
            network = Block(sizes, norm)
    network.to(DTYPE)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    if mode == "compiled":
        torch.compiler.reset()
        compile_parts(network)
    return network


def compile_parts(network: nn.Module) -> None:
    """Compile a block, or each of the norm layers; of equal ones, the first serves all."""
    if isinstance(network, _Chain):
        for layer in network.layers:
            layer.compile(dynamic=False)
    else:
        network.compile(dynamic=False)


class _Chain(nn.Module):
    """Norm layers, one after the other, so that each reads what the one before has written."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, rotation: object) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _run(network: nn.Module, x: Tensor, grad: Tensor, rotation: object, pass_: str) -> None:
    if pass_ == "inference":
        with torch.no_grad():
            network(x, rotation)
        return
    leaf = x.detach().requires_grad_()
    torch.autograd.backward(network(leaf, rotation), grad)
    network.zero_grad(set_to_none=True)
