"""Decoder block of LLaMA 7B (Touvron et al. 2023, arXiv 2302.13971) with any norm layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a network; the defaults are those of the 7B model, with 32 blocks."""

    width: int = 4096
    heads: int = 32
    ffn: int = 11_008
    depth: int = 32
    tokens: int = 4096


class Block(nn.Module):
    """Pre-norm attention with rotary positions, and a gated feed-forward network."""

    def __init__(self, sizes: Sizes, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.attention_norm, self.ffn_norm = norm(), norm()
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate_up = nn.Linear(sizes.width, 2 * sizes.ffn, bias=False)
        self.down = nn.Linear(sizes.ffn, sizes.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Map x (B, T, C) to the same shape; `rotation` is from `rotary`."""
        x = x + self.out(self._attention(self.attention_norm(x), rotation))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return y.transpose(1, 2).reshape(batch, length, width)


def rotary(sizes: Sizes, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the positions, (T, C / heads / 2) each."""
    half = sizes.width // sizes.heads // 2
    frequencies = 10_000.0 ** -(torch.arange(half, device=device) / half)
    angles = torch.arange(sizes.tokens, device=device)[:, None] * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of channels of x (B, heads, T, C / heads), one from each half."""
    cosine, sine = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
