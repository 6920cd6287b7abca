"""The masked autoencoder of He et al. 2022, on timm's blocks, with the official parameter names."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dyt_vision.config import MAE

EPSILON = 1e-6
"""Of the LayerNorms (official release) and of the variance of a patch's pixels."""


class MaskedAutoencoder(nn.Module):
    """Encodes the patches that are shown, and decodes the pixels of those that are not.

    An asymmetric pair of Transformers (He et al. 2022, Section 3): the encoder sees a class token
    and the shown patches alone; the decoder has mask tokens in the other places. Positions are
    fixed 2-D sines and cosines.
    """

    def __init__(self, config: MAE) -> None:
        super().__init__()
        self.mask_ratio, self.norm_pix = config.mask_ratio, config.norm_pix
        side = config.image_size // config.patch_size
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, 3, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = _fixed(positions(config.width, side))
        self.blocks = _blocks(config.width, config.heads, config.depth)
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.decoder_embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder_pos_embed = _fixed(positions(config.decoder_width, side))
        self.decoder_blocks = _blocks(
            config.decoder_width, config.decoder_heads, config.decoder_depth
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_width, eps=EPSILON)
        self.decoder_pred = nn.Linear(config.decoder_width, 3 * config.patch_size**2)
        self._draw_weights()

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Drawn as the linear layer of a patch's pixels that it is.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            images: (B, 3, H, W).
            noise: (B, N), one number for each patch; those with the smallest are shown.

        Returns:
            The loss, a scalar: the mean square error over the hidden patches (He et al. 2022,
            Section 3); the prediction (B, N, 3·P²); and the mask (B, N), 1 where hidden.
        """
        latent, mask, order = self.encode(images, noise)
        prediction = self.decode(latent, order)
        error = (prediction - self.target(images)).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum(), prediction, mask

    def encode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class token and shown patches (B, 1 + shown, C), mask (B, N), and the place (B, N) of
        every patch among the patches sorted by noise."""
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        shown = int(patches.shape[1] * (1 - self.mask_ratio))
        by_noise = noise.argsort(dim=1)
        order = by_noise.argsort(dim=1)
        kept = by_noise[:, :shown, None].expand(-1, -1, patches.shape[-1])
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([first, patches.gather(1, kept)], dim=1)
        for block in self.blocks:
            x = block(x)
        mask = (order >= shown).to(patches.dtype)
        return self.norm(x), mask, order

    def decode(self, latent: Tensor, order: Tensor) -> Tensor:
        """Pixels (B, N, 3·P²) of every patch from what ``encode`` gives."""
        x = self.decoder_embed(latent)
        hidden = order.shape[1] + 1 - x.shape[1]
        # Under autocast x has another type than the parameter.
        tokens = self.mask_token.to(x.dtype).expand(len(x), hidden, -1)
        patches = torch.cat([x[:, 1:], tokens], dim=1)
        patches = patches.gather(1, order[:, :, None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """What the decoder is to predict, (B, N, 3·P²)."""
        patches = self.patchify(images)
        if not self.norm_pix:
            return patches
        mean, variance = self.statistics(images)
        return (patches - mean) / (variance + EPSILON).sqrt()

    def statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each patch's pixels, (B, N, 1)."""
        patches = self.patchify(images)
        return patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)

    def patchify(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, N, P·P·3), the channel fastest."""
        p = self.patch_embed.patch_size[0]
        rows = images.unfold(2, p, p).unfold(3, p, p)  # (B, 3, H/P, W/P, P, P)
        return rows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, N, P·P·3) → (B, 3, H, W) of a square image."""
        p, side = self.patch_embed.patch_size[0], self.patch_embed.grid_size[0]
        grid = patches.unflatten(1, (side, side)).unflatten(-1, (p, p, 3))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def positions(width: int, side: int) -> Tensor:
    """Sines and cosines (1, 1 + side², width) of a square grid's places; 0 for the class token.

    The first half of the channels tells the column and the second half the row; in each, the first
    quarter of the width has sines and the next cosines of place / 10000^(i / (width/4)). The
    official release has them so; the original paper says no more than "sine-cosine".
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    columns = line[None].expand(side, -1, -1)
    rows = line[:, None].expand(-1, side, -1)
    grid = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), grid.float()])[None]


def _fixed(values: Tensor) -> nn.Parameter:
    """A parameter, as in the official checkpoints, that is not trained."""
    return nn.Parameter(values, requires_grad=False)


def _blocks(width: int, heads: int, depth: int) -> nn.ModuleList:
    norm = partial(nn.LayerNorm, eps=EPSILON)
    return nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
