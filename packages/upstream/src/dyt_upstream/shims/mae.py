"""MAE (facebookresearch/mae), written for timm 0.3.2 and torch 1.7, with newer libraries."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import vision_transformer
from timm.optim import optim_factory, param_groups_weight_decay
from torch import Tensor

from dyt_upstream.shims.old_libraries import restore_removed_names

restore_removed_names()
timm.__version__ = "0.3.2"  # which the scripts assert

_Block: Any = vision_transformer.Block
_VisionTransformer: Any = vision_transformer.VisionTransformer


class Block(_Block):  # type: ignore[misc]
    """timm's block, with the argument qk_scale, which is always None."""

    def __init__(self, *args: Any, qk_scale: None = None, **options: Any) -> None:
        super().__init__(*args, **options)


class VisionTransformer(_VisionTransformer):  # type: ignore[misc]
    """timm's ViT with the forward pass of 0.3.2: `forward_features` has pooled already."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


vision_transformer.Block = Block  # type: ignore[misc]
vision_transformer.VisionTransformer = VisionTransformer  # type: ignore[misc]
factory: Any = optim_factory
factory.add_weight_decay = param_groups_weight_decay  # renamed since
if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda device=None: None
