"""The Hyena operator: gated long convolutions whose filters are functions of the position.

Parameters and buffers have the names of the official release (HazyResearch/hyena-dna). Notation of
shapes: B sequences of L positions and D channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dyt_hyenadna.causal_convolution import causal_convolution
from dyt_hyenadna.network_config import HyenaNetwork

SHORT_FILTER_LENGTH = 3
DECAY_TARGET = 0.01
"""Value of the decay after ``fast_decay`` (fastest channel) or ``slow_decay`` · max_length."""
LOWEST_FREQUENCY = 1e-4


class HyenaOperator(nn.Module):
    """Hyena operator of order 2 (Poli et al. 2023, arXiv 2302.10866, Definition 3.1).

    Three projections of the input pass a short causal filter per channel: two gates and a value.
    The value is multiplied by the second gate, convolved with a filter as long as the sequence, and
    multiplied by the first gate. The operator is causal, and its cost grows with L log L.
    """

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        width = network.width
        self.in_proj = nn.Linear(width, 3 * width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, SHORT_FILTER_LENGTH, groups=3 * width)
        self.filter_fn = HyenaFilter(network)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions, (B, L, D) → (B, L, D).

        Raises:
            ValueError: if the sequence is longer than the filter.
        """
        projected = rearrange(self.in_proj(x), "b l c -> b c l")
        # Padding on the left alone makes the convolution causal, and its output as long as x.
        projected = self.short_filter(F.pad(projected, (SHORT_FILTER_LENGTH - 1, 0)))
        outer_gate, inner_gate, value = rearrange(projected, "b (n d) l -> n b d l", n=3)
        mixed = causal_convolution(value * inner_gate, self.filter_fn(x.shape[1]))
        return self.out_proj(rearrange(mixed * outer_gate, "b d l -> b l d"))


class HyenaFilter(nn.Module):
    """Long filter of each channel as a function of the position: an MLP times a decay.

    The MLP has sine activations and reads the time t = position / (max_length - 1) with cosines and
    sines of it. All filters therefore stretch with ``max_length``, and a network needs the value it
    was trained with. ``bias`` (D of state-space models, not an additive bias) multiplies the
    convolution's input and is the filter's additional value at lag 0.

    The positional features ``pos_emb.z``, ``pos_emb.t`` and the decay's rates are buffers, as the
    official DNA configs have it (``lr_pos_emb: 0.0``). The official port to Hugging Face makes z a
    parameter, which trains with the rest of that network.
    """

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        hidden = network.filter_width
        self.max_length = network.max_length
        self.bias = nn.Parameter(torch.ones(network.width))
        self.pos_emb = PositionalFeatures(network.filter_features, network.max_length)
        sine = Sine(
            hidden, network.filter_frequency
        )  # one module: all layers share its frequencies
        self.implicit_filter = nn.Sequential(
            nn.Linear(network.filter_features, hidden),
            sine,
            nn.Linear(hidden, hidden),
            sine,
            nn.Linear(hidden, hidden),
            sine,
            nn.Linear(hidden, network.width, bias=False),
        )
        self.modulation = ExponentialDecay(network)

    def forward(self, length: int) -> Tensor:
        """Return the filters' values at lags 0 to ``length`` - 1, (D, L).

        They are computed in the parameters' type whatever the autocast type: half types have too
        few digits to tell neighboring positions apart.

        Raises:
            ValueError: if ``length`` exceeds the network's ``max_length``.
        """
        if length > self.max_length:
            raise ValueError(
                f"a sequence has {length} positions, but the network's filters cover "
                f"{self.max_length}: shorten the sequences, or train with a larger max_length"
            )
        with torch.autocast(self.bias.device.type, enabled=False):
            features, time = self.pos_emb(length)
            filters = rearrange(self.modulation(self.implicit_filter(features), time), "l d -> d l")
            return filters + F.pad(rearrange(self.bias, "d -> d 1"), (0, length - 1))


class PositionalFeatures(nn.Module):
    """Inputs of the filter's MLP: time from 0 to 1, and cosines and negative sines of it."""

    z: Tensor
    t: Tensor

    def __init__(self, features: int, max_length: int) -> None:
        super().__init__()
        bands = (features - 1) // 2
        time = torch.linspace(0, 1, max_length)
        angle = 2 * math.pi * torch.arange(max_length, dtype=torch.float32) / max_length
        phases = torch.linspace(LOWEST_FREQUENCY, bands - 1, bands) * angle[:, None]
        features_by_time = torch.cat([time[:, None], phases.cos(), -phases.sin()], dim=-1)
        self.register_buffer("z", features_by_time[None])
        self.register_buffer("t", time[None, :, None])

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the features (L, features) and the time (L, 1) of the first positions."""
        return self.z[0, :length], self.t[0, :length]


class Sine(nn.Module):
    """Sine of the input times a learned frequency per channel."""

    def __init__(self, width: int, frequency: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, width), float(frequency)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq * x)


class ExponentialDecay(nn.Module):
    """Decay of the filter with time, at a fixed rate per channel, plus ``decay_shift``."""

    deltas: Tensor

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        slow = math.log(DECAY_TARGET) / network.slow_decay
        fast = math.log(DECAY_TARGET) / network.fast_decay
        self.shift = network.decay_shift
        self.register_buffer("deltas", torch.linspace(slow, fast, network.width)[None, None])

    def forward(self, filters: Tensor, time: Tensor) -> Tensor:
        """Multiply filters (L, D) by the decay at times (L, 1)."""
        return filters * (torch.exp(-time * self.deltas[0].abs()) + self.shift)
