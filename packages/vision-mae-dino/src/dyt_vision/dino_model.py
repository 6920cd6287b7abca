"""The networks and the loss of DINO (Caron et al. 2021), with the official parameter names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_vision.config import DINO, Transformer
from matched.training import sum_over_ranks


class Backbone(VisionTransformer):
    """timm's ViT as DINO has it: class token out, any image size in.

    The positions of another size than the first are interpolated as in the official release.
    """

    def __init__(self, config: Transformer, drop_path: float = 0.0, init_std: float = 0.02) -> None:
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
        _draw_linear(self.blocks, init_std)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Class token and patches (B, 1 + h·w, C) with their positions, of patches (B, h, w, C)."""
        height, width = x.shape[1:3]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        return self.pos_drop(x + self._positions(height, width))

    def _positions(self, height: int, width: int) -> Tensor:
        rows, columns = self.patch_embed.grid_size
        if (height, width) == (rows, columns):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        # The tenth of a patch is the release's guard against rounding down; it moves the sampling
        # points too, so that without it released weights would see other positions.
        scale = ((height + 0.1) / rows, (width + 0.1) / columns)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def last_attention(self, images: Tensor) -> Tensor:
        """Attention of the last block's class token to the patches: (B, heads, h, w)."""
        x = self.patch_embed(images)
        side = x.shape[1:3]
        x = self._pos_embed(x)
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        qkv = last.attn.qkv(last.norm1(x)).unflatten(-1, (3, last.attn.num_heads, -1))
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        weights = (query[:, :, :1] @ key.transpose(-2, -1) * last.attn.scale).softmax(dim=-1)
        return weights[:, :, 0, 1:].unflatten(-1, side)


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose weight is g·v/‖v‖ row by row (Salimans & Kingma 2016).

    g starts at 1. The parameters' names are the official checkpoints', which torch's own
    parametrization has given up.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        # Drawn as torch draws a linear layer's weight, as the release leaves it.
        self.weight_v = nn.Parameter(nn.Linear(inputs, outputs, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class Head(nn.Module):
    """The projection head (Caron et al. 2021, Section 3.1): three layers, then a unit sphere."""

    def __init__(self, config: DINO) -> None:
        super().__init__()
        sizes = (config.width, config.head_width, config.head_width, config.bottleneck)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        _draw_linear(self.mlp, config.init_std)
        self.last_layer = WeightNormLinear(config.bottleneck, config.outputs)
        self.last_layer.weight_g.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


def _draw_linear(module: nn.Module, std: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


class MultiCrop(nn.Module):
    """A backbone and its head over crops of several sizes: one forward pass for each size."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Crops, each (B, 3, S, S), those of one size side by side → (len(crops)·B, K)."""
        sizes = [list(same) for _, same in groupby(crops, key=lambda crop: crop.shape[-1])]
        return self.head(torch.cat([self.backbone(torch.cat(same)) for same in sizes]))


class SelfDistillation(nn.Module):
    """Student, teacher and the centre of the teacher's outputs: all that a checkpoint must hold.

    The teacher is a moving average of the student and is never in training mode.
    """

    def __init__(self, config: DINO, student: MultiCrop) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.student_temperature = config.student_temperature
        self.center_momentum = config.center_momentum
        self.register_buffer("center", torch.zeros(1, config.outputs))
        self._seen = torch.zeros(1, config.outputs)
        self._count = 0

    def train(self, mode: bool = True) -> SelfDistillation:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, crops: Sequence[Tensor], teacher_temperature: float) -> Tensor:
        """The cross-entropy of Caron et al. 2021, Eq. 3, averaged over the pairs of crops.

        Args:
            crops: each (B, 3, S, S); the first two are the global ones, which the teacher sees.
        """
        students = self.student(crops) / self.student_temperature
        with torch.no_grad():
            outputs = self.teacher(crops[:2])
            sharp = ((outputs - self.center) / teacher_temperature).softmax(dim=-1)
            if self.training:
                self._seen = self._seen.to(outputs.device) + outputs.sum(dim=0, keepdim=True)
                self._count += len(outputs)
        logs = students.log_softmax(dim=-1).chunk(len(crops))
        losses = [
            -(target * log).sum(dim=-1).mean()
            for i, target in enumerate(sharp.chunk(2))
            for j, log in enumerate(logs)
            if i != j
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student, and the centre towards the step's mean output.

        Caron et al. 2021, Section 3.1 and Eq. 4.
        """
        mine, its = list(self.student.parameters()), list(self.teacher.parameters())
        torch._foreach_mul_(its, momentum)
        torch._foreach_add_(its, mine, alpha=1 - momentum)
        for its_own, students in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
            its_own.copy_(students)  # running statistics, of a norm that has some
        sums = sum_over_ranks(F.pad(self._seen, (0, 1), value=self._count))
        mean = sums[:, :-1] / sums[:, -1:]
        self.center.mul_(self.center_momentum).add_(mean, alpha=1 - self.center_momentum)
        self._seen, self._count = torch.zeros_like(self._seen), 0
