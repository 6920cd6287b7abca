"""Decoder block of LLaMA 7B (Touvron et al. 2023, arXiv 2302.13971) with any norm layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpu_sections import fused


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a network; the defaults are those of the 7B model, with 32 blocks."""

    width: int = 4096
    heads: int = 32
    ffn: int = 11_008
    depth: int = 32
    tokens: int = 4096


class AddThenNorm(nn.Module):
    """The end of a residual branch and the norm of the next: two operations, for any norm layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, branch: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return h = x + branch·matrixᵀ and the norm of h, all (B, T, C)."""
        h = x + F.linear(branch, matrix)
        return h, self.norm(h)

    def project(self, normed: Tensor, matrix: Tensor) -> Tensor:
        """Return the projection of the norm's output."""
        return F.linear(normed, matrix)


class AddDyT(AddThenNorm):
    """The addition and DyT in one launch."""

    def forward(self, x: Tensor, branch: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(branch, matrix)
        return fused.add_dyt(x, y, self.norm.alpha, self.norm.weight, None)


class DyTAfterProduct(AddThenNorm):
    """The addition and DyT as the epilogue of the product, for inference."""

    def forward(self, x: Tensor, branch: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        return fused.linear_add_dyt(x, branch, matrix, self.norm.alpha, self.norm.weight)


class DyTBeforeProduct(AddThenNorm):
    """DyT as the prologue of the product that follows, for inference; γ is 1, as if folded."""

    def forward(self, x: Tensor, branch: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        h = x + F.linear(branch, matrix)
        return h, h

    def project(self, normed: Tensor, matrix: Tensor) -> Tensor:
        return fused.linear_after_dyt(normed, self.norm.alpha, matrix, None)


class Block(nn.Module):
    """Attention with rotary positions and a gated feed-forward network, from norm to norm.

    The block begins after its first norm layer and ends after the first of the next block, so that
    both norms follow a residual addition, as they do within the network.
    """

    def __init__(self, sizes: Sizes, join: Callable[[], AddThenNorm]) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.to_ffn, self.to_attention = join(), join()
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate_up = nn.Linear(sizes.width, 2 * sizes.ffn, bias=False)
        self.down = nn.Linear(sizes.ffn, sizes.width, bias=False)

    def forward(
        self, x: Tensor, normed: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Map x and its norm (B, T, C) to the next block's; `rotation` is from `rotary`."""
        attended = self._attention(normed, rotation)
        x, normed = self.to_ffn(x, attended, self.out.weight)
        gate, up = self.to_ffn.project(normed, self.gate_up.weight).chunk(2, dim=-1)
        return self.to_attention(x, F.silu(gate) * up, self.down.weight)

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = x.shape
        projected = self.to_attention.project(x, self.qkv.weight)
        split = projected.view(batch, length, 3, self.heads, width // self.heads)
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
