"""The masked autoencoder of He et al. 2022 (MAE) and its loss, with official parameter names."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dyt_vision.config import MAE

EPSILON = 1e-6
"""Epsilon of the LayerNorms (official release) and of the variance of a patch's pixels."""


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible patches and a decoder that predicts the hidden ones' pixels.

    An asymmetric pair of Transformers (He et al. 2022, Section 3): the encoder's input is a class
    token and the visible patches only; the decoder's has mask tokens in the other places. Position
    embeddings are fixed 2-D sines and cosines.
    """

    def __init__(self, config: MAE) -> None:
        super().__init__()
        self.mask_ratio, self.norm_pix = config.mask_ratio, config.norm_pix
        side = config.image_size // config.patch_size
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, 3, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = _frozen(sincos_positions(config.width, side))
        self.blocks = _make_blocks(config.width, config.heads, config.depth)
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.decoder_embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder_pos_embed = _frozen(sincos_positions(config.decoder_width, side))
        self.decoder_blocks = _make_blocks(
            config.decoder_width, config.decoder_heads, config.decoder_depth
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_width, eps=EPSILON)
        self.decoder_pred = nn.Linear(config.decoder_width, 3 * config.patch_size**2)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # The patch embedding is a linear layer of a patch's pixels and is initialized as one.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the prediction and the mask.

        Args:
            images: (B, 3, H, W).
            noise: (B, N), one number for each patch; the patches with the smallest are visible.

        Returns:
            The loss, a scalar: the mean squared error over the hidden patches (He et al. 2022,
            Section 3); the prediction (B, N, 3·P²); and the mask (B, N), 1 where hidden.
        """
        latent, mask, ranks = self.encode(images, noise)
        prediction = self.decode(latent, ranks)
        error = (prediction - self.target(images)).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum(), prediction, mask

    def encode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the encoded class token and visible patches (B, 1 + visible, C), the mask (B, N),
        and each patch's rank (B, N) among the patches sorted by noise."""
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        visible = int(patches.shape[1] * (1 - self.mask_ratio))
        by_noise = noise.argsort(dim=1)
        ranks = by_noise.argsort(dim=1)
        kept = repeat(by_noise[:, :visible], "b n -> b n c", c=patches.shape[-1])
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([class_token, patches.gather(1, kept)], dim=1)
        for block in self.blocks:
            x = block(x)
        mask = (ranks >= visible).to(patches.dtype)
        return self.norm(x), mask, ranks

    def decode(self, latent: Tensor, ranks: Tensor) -> Tensor:
        """Return the predicted pixels (B, N, 3·P²) of every patch.

        Args:
            latent: from ``encode``.
            ranks: from ``encode``.
        """
        x = self.decoder_embed(latent)
        hidden = ranks.shape[1] + 1 - x.shape[1]
        # Under autocast the dtype of x differs from the parameter's.
        mask_tokens = self.mask_token.to(x.dtype).expand(len(x), hidden, -1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)
        patches = patches.gather(1, repeat(ranks, "b n -> b n c", c=x.shape[-1]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """Return the decoder's targets, (B, N, 3·P²)."""
        patches = self.patchify(images)
        if not self.norm_pix:
            return patches
        mean, variance = self.statistics(images)
        return (patches - mean) / (variance + EPSILON).sqrt()

    def statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each patch's pixels, (B, N, 1) each."""
        patches = self.patchify(images)
        return patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)

    def patchify(self, images: Tensor) -> Tensor:
        """Return the pixels of each patch, (B, 3, H, W) → (B, N, P·P·3), channels last."""
        p = self.patch_embed.patch_size[0]
        return rearrange(images, "b rgb (h p) (w q) -> b (h w) (p q rgb)", p=p, q=p)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Return the square image of its patches, (B, N, P·P·3) → (B, 3, H, W)."""
        p, side = self.patch_embed.patch_size[0], self.patch_embed.grid_size[0]
        return rearrange(patches, "b (h w) (p q rgb) -> b rgb (h p) (w q)", h=side, p=p, q=p)


def sincos_positions(width: int, side: int) -> Tensor:
    """Return 2-D sine-cosine positions of a square grid, (1, 1 + side², width).

    The class token's are 0. The first half of the channels encodes the column and the second half
    the row; in each half, the first ``width / 4`` channels are sines and the others cosines of
    position / 10000^(i / (width / 4)). This is the official release's layout; the paper only says
    "sine-cosine".
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    columns = repeat(line, "w c -> h w c", h=side)
    rows = repeat(line, "h c -> h w c", w=side)
    grid = rearrange(torch.cat([columns, rows], dim=-1), "h w c -> (h w) c")
    return torch.cat([torch.zeros(1, width), grid.float()])[None]


def _frozen(values: Tensor) -> nn.Parameter:
    """Return a parameter, as in the official checkpoints, that is not trained."""
    return nn.Parameter(values, requires_grad=False)


def _make_blocks(width: int, heads: int, depth: int) -> nn.ModuleList:
    norm: Any = partial(nn.LayerNorm, eps=EPSILON)  # timm's annotation has only classes
    return nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
