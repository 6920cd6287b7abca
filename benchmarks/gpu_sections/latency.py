"""Latency of LLaMA 7B with each norm, as in CVPR 2025, Table 7: bf16, one sequence of 4,096 tokens.

The paper prints seconds for 100 passes of all norm layers and of the model, inference (forward) and
training (forward and backward). Measured here: the norm layers of the model, one after the other;
one decoder block; and the model's blocks with the final norm, without embedding and output layer.
"Identity" has no norm layer: the difference to it is the cost of the norm within the network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import layers
import torch
from torch import Tensor, nn

from gpu_sections import Part, Row, timing
from gpu_sections.llama_block import Block, Blocks, Sizes, rotary

SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(width=32, heads=2, ffn=64, depth=2, tokens=8),
}
ROUNDS = {
    "cuda": {"layers": 21, "block": 41, "model": 7},
    "cpu": dict.fromkeys(("layers", "block", "model"), 1),
}
GIGABYTES = {"layers": 8, "block": 8, "model": 60}
PASSES = ("inference", "training")
DTYPE = torch.bfloat16


def norms(width: int, device: str) -> dict[str, Callable[[], nn.Module]]:
    """Return the norm layers of the arms by name, with the arguments of LLaMA."""
    kernel = "triton"  # on a CPU, Triton's interpreter
    found: dict[str, Callable[[], nn.Module]] = {
        "RMSNorm": partial(nn.RMSNorm, width, eps=1e-5),
        "DyT, formula": partial(layers.BackendLayer, width, "reference", bias=False),
        "DyT, kernel": partial(layers.BackendLayer, width, kernel, bias=False),
        "Identity": nn.Identity,
    }
    return found


def parts(device: str) -> list[Part]:
    modes = ("eager", "compiled") if device == "cuda" else ("eager",)
    return [
        Part(
            name=f"{what}, {mode}",
            measure=partial(latencies, device, what, mode),
            limit={"layers": 60, "block": 100, "model": 150}[what],
            gigabytes=GIGABYTES[what] if device == "cuda" else 1,
        )
        for what in ("block", "layers", "model")
        for mode in modes
    ]


def latencies(device: str, what: str, mode: str) -> list[Row]:
    """Return a row for each norm and pass: ms of one pass, and of 100 as the paper prints it."""
    sizes = SIZES[device]
    names = [name for name in norms(sizes.width, device) if what != "layers" or name != "Identity"]
    rows: list[Row] = []
    if what == "model":  # one network at a time has room on the card
        for name in names:
            rows += _measured(device, what, mode, [name])
            if device == "cuda":
                torch.cuda.empty_cache()
        return rows
    return _measured(device, what, mode, names)


def _measured(device: str, what: str, mode: str, names: list[str]) -> list[Row]:
    sizes = SIZES[device]
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
            row: Row = {"what": what, "mode": mode, "norm": name, "pass": pass_}
            row |= timing.statistics("ms", [value / 1e3 for value in values], "{:.4f}")
            rows.append(row)
    return rows


def build(device: str, what: str, name: str, mode: str) -> nn.Module:
    """Return the norm layers of the model, one block, or all blocks; weights are N(0, 0.02)."""
    sizes = SIZES[device]
    norm = norms(sizes.width, device)[name]
    torch.manual_seed(0)
    with torch.device(device):
        network: nn.Module
        if what == "layers":
            network = _Chain(nn.ModuleList(norm() for _ in range(2 * sizes.depth + 1)))
        else:
            network = Block(sizes, norm) if what == "block" else Blocks(sizes, norm)
    network.to(DTYPE)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    if mode == "compiled":
        torch.compiler.reset()
        compile_parts(network)
    return network


def compile_parts(network: nn.Module) -> None:
    """Compile a block; of several equal ones, the first compilation serves all."""
    if isinstance(network, Blocks):
        for block in network.blocks:
            block.compile(dynamic=False)
        network.norm.compile(dynamic=False)
    elif isinstance(network, _Chain):
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
