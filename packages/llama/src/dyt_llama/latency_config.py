"""Config of the latency measurement as plain values, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dyt import Norm
from dyt_llama.memory import estimate_memory
from dyt_llama.network_config import Network
from matched import MemoryEstimate, Resources
from matched.checks import check_choice, check_counts

BASE, IDENTITY = "RMSNorm", "Identity"
VARIANTS = (
    BASE,
    "DyT",
    "DyT, kernel",
    "Derf",
    "RMSNorm, compiled",
    "DyT, compiled",
    IDENTITY,
)
"""Layers in place of the network's norms; ``dyt_llama.latency.make_layer`` describes them."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one network with several layers in place of its norms (CVPR 2025, Table 7).

    All variants are timed in one process in turns, in a random order for each round, so that
    whatever else the machine does slows them equally.

    Attributes:
        seed: of the weights, the tokens and the orders.
        network: sizes of the network.
        device: "cuda" measures with events of the GPU; "cpu" the time of the process.
        dtype: of weights and activations.
        length: tokens of the sequence.
        alpha0: α of DyT and Derf, which has no influence on the time.
        rounds: timed passes of each variant.
        warmup_rounds: rounds before them that are not counted; compilers run in the first.
        variants: those that are timed, of ``VARIANTS``. The first and the last of these are
            needed: the others are compared with them.
    """

    seed: int = 0
    network: Network
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    length: int
    alpha0: float = 0.5
    rounds: int
    warmup_rounds: int
    variants: tuple[str, ...] = VARIANTS

    def __post_init__(self) -> None:
        check_counts(self, "length", "rounds", "warmup_rounds")
        if self.rounds < 2:
            raise ValueError(f"rounds is {self.rounds}; expected 2 or more, for quantiles")
        Norm.dyt(alpha0=self.alpha0)  # refuses values that are not positive numbers
        check_choice(self, "device", ("cpu", "cuda"))
        check_choice(self, "dtype", ("float32", "bfloat16"))
        unknown = [name for name in self.variants if name not in VARIANTS]
        twice = len(set(self.variants)) < len(self.variants)
        if unknown or twice or not {BASE, IDENTITY} <= set(self.variants):
            raise ValueError(
                f"variants are {self.variants}; expected {BASE!r}, {IDENTITY!r} and any of "
                f"{', '.join(map(repr, VARIANTS[1:-1]))}, each once"
            )
        if self.length > self.network.positions:
            raise ValueError(
                f"length is {self.length}, but the network has {self.network.positions} positions; "
                "shorten the sequence or set network.positions"
            )

    def memory(self, resources: Resources) -> MemoryEstimate:
        """Return the estimated memory with RMSNorm, which keeps most for its backward pass."""
        precision = "bf16-params" if self.dtype == "bfloat16" else "fp32"
        estimate = estimate_memory(
            self.network,
            Norm.own(),
            resources,
            embedding_scale=False,
            tokens=self.length,
            precision=precision,
            checkpointed=0.0,
        )
        share = 2 if self.dtype == "bfloat16" else 1  # of the float32 that training keeps
        return replace(
            estimate,
            weights=estimate.weights // share,
            gradients=estimate.gradients // share,
            optimizer=0,
            gathered=0,
        )
