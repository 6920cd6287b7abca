"""Mamba in one and in two directions, with the official names of its parameters."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_caduceus.network_config import CaduceusNetwork
from dyt_caduceus.selective_scan import selective_scan


class BidirectionalMamba(nn.Module):
    """Two Mambas, one of which reads the sequence backwards; their outputs are added.

    The two share the projections at the input and at the output, which hold most of the parameters
    (Schiff et al. 2024, Section 3.1). Both are applied once: the first before the sequence is
    reversed, and the second, being linear, to the sum.
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.mamba_fwd = Mamba(network)
        self.mamba_rev = Mamba(network)
        self.mamba_rev.in_proj = self.mamba_fwd.in_proj
        self.mamba_rev.out_proj = self.mamba_fwd.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed sequence, (B, L, C) → (B, L, C)."""
        projected = rearrange(self.mamba_fwd.in_proj(x), "b l c -> b c l")
        y = self.mamba_fwd.mix(projected)
        y = y + self.mamba_rev.mix(projected.flip(2)).flip(2)
        out: Tensor = self.mamba_fwd.out_proj(rearrange(y, "b c l -> b l c"))
        return out


class Mamba(nn.Module):
    """The parameters of one Mamba, and the part between its projections (Gu and Dao 2023, Fig. 3).

    A short causal convolution, SiLU, and a selective scan whose output is gated.
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        inner, states = network.inner, network.d_state
        self.sizes = (network.dt_rank, states, states)
        self.in_proj = nn.Linear(network.width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(
            inner, inner, network.d_conv, groups=inner, padding=network.d_conv - 1
        )
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(network.dt_rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, network.width, bias=False)

    def mix(self, projected: Tensor) -> Tensor:
        """Return the gated output of the scan.

        Args:
            projected: input and gate, (B, 2·inner, L).

        Returns:
            (B, inner, L).
        """
        x, z = projected.chunk(2, dim=1)
        x = F.silu(self.conv1d(x)[..., : x.shape[2]])
        delta, B, C = self.x_proj(rearrange(x, "b c l -> b l c")).split(self.sizes, dim=2)
        # Without the bias, which the scan adds in float32.
        delta = F.linear(delta, self.dt_proj.weight)
        return selective_scan(
            x,
            rearrange(delta, "b l c -> b c l"),
            -torch.exp(self.A_log),
            rearrange(B, "b l n -> b n l"),
            rearrange(C, "b l n -> b n l"),
            self.D,
            z,
            self.dt_proj.bias,
        )
