"""Latency of LLaMA with several layers in place of its norms: the task ``measure``.

Source: CVPR 2025, Table 7 and its script in the release, which times 100 passes of transformers'
LLaMA 7B in eager mode with RMSNorm, with DyT and with Identity, and takes the difference to
Identity as the time of the layers.
"""

from __future__ import annotations

import csv
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from dyt import Derf, DyT, Norm
from dyt.backends import cpu, triton
from dyt.functional import dyt
from dyt_llama.latency_config import BASE, IDENTITY, Latency
from dyt_llama.model import Llama, build_on_meta
from matched import Resources
from matched.errors import one_line
from matched.machine import cpu_name
from matched.task import Context, Outcome
from matched.training.seeding import derive_seed

PASSES = ("inference", "training")
COMPILED = ", compiled"
PRINTED_PASSES = 100
"""Passes of which the paper prints the time."""
Times = Mapping[str, Sequence[float]]
"""Variant → seconds of its pass in each round."""


class FormulaDyT(DyT):
    """DyT by the paper's formula in plain operations."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.alpha is not None, "α is learnable"
        return dyt(x, self.alpha, self.weight, backend="reference")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Times of all variants that could be timed.

    Attributes:
        times: pass → variant → seconds.
        left_out: variant → why it was not timed.
        hardware: what they were measured on.
    """

    times: Mapping[str, Times]
    left_out: Mapping[str, str]
    hardware: str


def measure(context: Context, config: Latency) -> Outcome:
    """Time all variants and return, for each, the papers' four numbers in seconds and in per cent.

    ``VARIANT/inference_model`` is the time of 100 forward passes, ``VARIANT/training_model`` that
    of 100 forward and backward passes, and ``…_layer`` the same minus Identity's. ``…_share`` is
    the number in per cent of the model with RMSNorm. They are medians over rounds; differences are
    taken within a round. latency.csv has their quantiles.

    Raises:
        ValueError: if the device is missing, the memory of the GPU does not suffice, or the run
            has several processes.
    """
    if context.world_size > 1:
        raise ValueError(
            f"latency is measured by one process, not by {context.world_size}; expected "
            "Resources with gpus=1, or processes=1 without a GPU"
        )
    measured = time_variants(config, threads=context.threads, progress=context.write_progress)
    rows = quantiles(measured.times)
    with (
        context.atomic_write("latency.csv") as path,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Outcome(
        metrics=summarized(measured.times),
        steps=config.rounds,
        details={
            "hardware": measured.hardware,
            "warnings": [f"{name} was left out: {why}" for name, why in measured.left_out.items()],
        },
    )


def time_variants(
    config: Latency, *, threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> Measured:
    """Time passes of each variant in turns, in a random order for each round.

    Args:
        threads: of the CPU.
        progress: called with the number of rounds done and of all rounds.

    Raises:
        ValueError: if the device is missing, or the memory of the GPU does not suffice.
    """
    device = torch.device(config.device)
    if config.device == "cuda":
        _check_gpu(config)
        clock: Callable[[Callable[[], None]], float] = gpu_seconds
        hardware = torch.cuda.get_device_name()
    else:
        torch.set_num_threads(threads)
        clock = process_seconds
        hardware = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    hardware = f"{hardware}, {config.dtype}, torch {torch.__version__}"
    network = Passes(config, device)
    times: dict[str, dict[str, list[float]]] = {
        name: {variant: [] for variant in network.layers} for name in PASSES
    }
    shuffle = random.Random(derive_seed(config.seed, "order")).shuffle
    rounds = config.warmup_rounds + config.rounds
    for number in range(rounds):
        for name in PASSES:
            variants = list(network.layers)
            shuffle(variants)
            for variant in variants:
                times[name][variant].append(network.timed(variant, name, clock))
        if progress is not None:
            progress(number + 1, rounds)
    kept = {
        name: {variant: times[name][variant][config.warmup_rounds :] for variant in network.layers}
        for name in PASSES
    }
    return Measured(times=kept, left_out=network.left_out, hardware=hardware)


def _check_gpu(config: Latency) -> None:
    """Raise ValueError if there is no GPU, or if the network does not fit into its memory."""
    if not torch.cuda.is_available():
        raise ValueError(
            f"the latency is to be measured on a GPU (device={config.device!r}), and torch finds "
            'none here; use a machine with a GPU, or the smoke scale, which has device="cpu"'
        )
    needed = config.memory(Resources(gpus=1, minutes=1)).total / 2**30
    available = torch.cuda.get_device_properties(0).total_memory / 2**30
    if needed > available:
        raise ValueError(
            f"the network needs about {needed:.0f} GB, and {torch.cuda.get_device_name()} has "
            f"{available:.0f}; use a GPU with more memory, or a smaller network"
        )


def gpu_seconds(run: Callable[[], None]) -> float:
    """Return the seconds between two events of the GPU around a pass."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def process_seconds(run: Callable[[], None]) -> float:
    """Return the CPU seconds of this process in a pass, of which other processes take no part."""
    started = time.process_time()
    run()
    return time.process_time() - started


class Passes:
    """One network whose norms are exchanged between passes, so that all variants fit into memory.

    Attributes:
        layers: variant → its layers, one for each norm of the network.
        left_out: variant → why it cannot be timed here.
    """

    def __init__(self, config: Latency, device: torch.device) -> None:
        dtype = getattr(torch, config.dtype)
        self.model, paths = build(config, device, dtype)
        self.slots = [(self.model.get_submodule(p.rpartition(".")[0]), p) for p in paths]
        numbers = torch.Generator().manual_seed(derive_seed(config.seed, "tokens"))
        shape = (1, config.length)
        tokens = torch.randint(config.network.vocabulary, shape, generator=numbers)
        self.tokens = tokens.to(device)
        self.layers: dict[str, list[nn.Module]] = {}
        self.left_out: dict[str, str] = {}
        for variant in config.variants:
            if (problem := kernel_problem(variant, device)) is not None:
                self.left_out[variant] = problem
                continue
            with device:
                layers = [make_layer(variant, config) for _ in paths]
            self.layers[variant] = [layer.to(dtype) for layer in layers]
            if variant.endswith(COMPILED):
                self._try_compiler(variant)

    def timed(
        self, variant: str, pass_: str, clock: Callable[[Callable[[], None]], float]
    ) -> float:
        """Return the seconds of a pass of a variant."""
        for (parent, path), layer in zip(self.slots, self.layers[variant], strict=True):
            setattr(parent, path.rpartition(".")[2], layer)
        return clock(self._infer if pass_ == "inference" else self._train)

    def _try_compiler(self, variant: str) -> None:
        """Compile a variant for both passes, or leave it out if this machine cannot compile it."""
        try:
            for pass_ in PASSES:
                self.timed(variant, pass_, process_seconds)
        except RuntimeError as error:  # the class of all errors of torch.compile
            del self.layers[variant]
            self.left_out[variant] = one_line(error)

    @torch.no_grad()
    def _infer(self) -> None:
        self.model(self.tokens)

    def _train(self) -> None:
        # As the release's script: the loss of unshifted tokens, and gradients are never zeroed.
        logits = self.model(self.tokens).logits
        F.cross_entropy(logits.flatten(0, 1).float(), self.tokens.flatten()).backward()


def build(
    config: Latency, device: torch.device, dtype: torch.dtype
) -> tuple[Llama, tuple[str, ...]]:
    """Return a network with random weights and the paths of its norms.

    The weights are drawn on the device: those of 7B by address would take a minute on the CPU.
    """
    built = build_on_meta(config.network, Norm.own())
    model: Any = built.model
    model.to(dtype).to_empty(device=device)
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(device)
    numbers = torch.Generator(device).manual_seed(derive_seed(config.seed, "weights"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, config.network.std, generator=numbers)
            else:
                parameter.fill_(1.0)
    return model, built.differing


def make_layer(variant: str, config: Latency) -> nn.Module:
    """Return a layer of a variant.

    "RMSNorm" is transformers', in several operations; "DyT" the paper's formula; "DyT, kernel" and
    "Derf" this repository's kernel, the C++ one on a CPU and Triton's on a GPU. "…, compiled" is
    the formula compiled by itself, as in the paper's appendix, not the block around it.
    """
    width, alpha0 = config.network.width, config.alpha0
    layers: dict[str, Callable[[], nn.Module]] = {
        BASE: lambda: LlamaRMSNorm(width, eps=config.network.norm_eps),
        "DyT": lambda: FormulaDyT(width, alpha0, bias=False),
        "DyT, kernel": lambda: DyT(width, alpha0, bias=False),
        "Derf": lambda: Derf(width, alpha0, bias=False),
        IDENTITY: nn.Identity,
    }
    layer = layers[variant.removesuffix(COMPILED)]()
    if variant.endswith(COMPILED):
        layer.compile(fullgraph=True, dynamic=False)
    return layer


def kernel_problem(variant: str, device: torch.device) -> str | None:
    """Return why a variant's kernel cannot run here; None if it can, or if it needs none."""
    if variant not in ("DyT, kernel", "Derf"):
        return None
    if device.type == "cuda" or triton.REPLACES_CPU_KERNEL:
        problem, remedy = triton.PROBLEM, triton.REMEDY
    else:
        problem, remedy = cpu.PROBLEM, cpu.REMEDY
    return None if problem is None else f"{problem.rstrip('.')}. {remedy}"


def differences(times: Times, variant: str) -> list[float]:
    """Return the seconds of a variant's layers in each round: the model minus Identity."""
    return [a - b for a, b in zip(times[variant], times[IDENTITY], strict=True)]


def summarized(times: Mapping[str, Times]) -> dict[str, float]:
    """Return the metrics of all variants; Identity has no layers."""
    metrics = {}
    for name in PASSES:
        base = statistics.median(times[name][BASE])
        for variant in times[name]:
            medians = {"model": statistics.median(times[name][variant])}
            if variant != IDENTITY:
                medians["layer"] = statistics.median(differences(times[name], variant))
            for part, seconds in medians.items():
                metrics[f"{variant}/{name}_{part}"] = PRINTED_PASSES * seconds
                metrics[f"{variant}/{name}_{part}_share"] = 100 * seconds / base
    return metrics


def quantiles(times: Mapping[str, Times]) -> list[dict[str, object]]:
    """Return a row for each pass, variant and part: milliseconds of one pass over the rounds."""
    return [
        {"pass": name, "variant": variant, "part": part, "rounds": len(seconds)}
        | {f"ms_p{percent}": f"{1e3 * value:.4f}" for percent, value in _percentiles(seconds)}
        for name in PASSES
        for variant in times[name]
        for part, seconds in (
            ("model", times[name][variant]),
            ("layer", differences(times[name], variant)),
        )
    ]


def _percentiles(values: Sequence[float]) -> Iterator[tuple[int, float]]:
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    yield from ((10 * tenth, tenths[tenth - 1]) for tenth in (1, 5, 9))
