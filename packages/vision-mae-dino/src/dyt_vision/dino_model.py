"""DINO's networks (Caron et al. 2021), with the official parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_vision.config import DINO, ViT


class Backbone(VisionTransformer):
    """timm's ViT as DINO uses it: returns the class token and accepts images of any size.

    Position embeddings of other sizes than ``config.image_size`` are interpolated as in the
    official release.
    """

    pos_embed: nn.Parameter
    cls_token: nn.Parameter

    def __init__(self, config: ViT, drop_path: float = 0.0, init_std: float = 0.02) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
            global_pool="token",
            drop_path_rate=drop_path,
            dynamic_img_size=True,
        )
        for tokens in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(tokens, std=init_std)
        _init_linear_layers(self.blocks, init_std)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Return class token and patches with positions, (B, 1 + h·w, C), of (B, h, w, C)."""
        height, width = x.shape[1:3]
        class_token = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([class_token, rearrange(x, "b h w c -> b (h w) c")], dim=1)
        return self.pos_drop(x + self._interpolated_positions(height, width))

    def _interpolated_positions(self, height: int, width: int) -> Tensor:
        """Return the position embedding of a grid of patches, (1, 1 + height·width, C)."""
        rows, columns = self.patch_embed.grid_size
        if (height, width) == (rows, columns):
            return self.pos_embed
        class_position, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = rearrange(grid, "1 (h w) c -> 1 c h w", h=rows)
        # The tenth of a patch is the release's guard against rounding down; it also moves the
        # sampling points, so without it released weights would get different positions.
        scale = ((height + 0.1) / rows, (width + 0.1) / columns)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([class_position, rearrange(grid, "1 c h w -> 1 (h w) c")], dim=1)

    def last_attention(self, images: Tensor) -> Tensor:
        """Return the attention of the last block's class token to the patches, (B, heads, h, w)."""
        x = self.patch_embed(images)
        height = x.shape[1]
        x = self._pos_embed(x)
        last: Any  # timm's Block does not declare its modules
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x)
        query, key, _ = rearrange(
            last.attn.qkv(last.norm1(x)),
            "b n (qkv heads d) -> qkv b heads n d",
            qkv=3,
            heads=last.attn.num_heads,
        )
        weights = (query[:, :, :1] @ key.transpose(-2, -1) * last.attn.scale).softmax(dim=-1)
        to_patches = weights[:, :, 0, 1:]
        return rearrange(to_patches, "b heads (h w) -> b heads h w", h=height)


class WeightNormLinear(nn.Module):
    """Linear layer without bias, with weight g·v/‖v‖ row by row (Salimans & Kingma 2016).

    g starts at 1. The parameters are called ``weight_g`` and ``weight_v`` as in the official
    checkpoints; torch's current weight-norm parametrization uses other names.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        # Initialized as torch initializes a linear layer, like the release.
        self.weight_v = nn.Parameter(nn.Linear(inputs, outputs, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DINOHead(nn.Module):
    """Projection head (Caron et al. 2021, Section 3.1): MLP, L2 normalization, linear layer."""

    def __init__(self, config: DINO) -> None:
        super().__init__()
        sizes = (config.width, config.head_width, config.head_width, config.bottleneck)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        _init_linear_layers(self.mlp, config.init_std)
        self.last_layer = WeightNormLinear(config.bottleneck, config.outputs)
        self.last_layer.weight_g.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


def _init_linear_layers(module: nn.Module, std: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


class MultiCropWrapper(nn.Module):
    """A backbone and its head over crops of several sizes: one forward pass for each size."""

    def __init__(self, backbone: Backbone, head: DINOHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Return outputs (len(crops)·B, K) of crops (B, 3, S, S); equal sizes must be adjacent."""
        by_size = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape[-1])]
        return self.head(torch.cat([self.backbone(torch.cat(group)) for group in by_size]))
