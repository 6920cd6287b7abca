"""Fixup (Zhang, Dauphin & Ma, arXiv 1901.09321), for Transformers as in T-Fixup (Huang et al.).

Three rules (Section 3 of Fixup), so that a step of size lr changes the function by O(lr) at any
depth:

1. The classification layer and the last layer of every residual branch start at zero.
2. The other weight layers of a branch are scaled by L^(-1/(2m-2)), with L residual branches in the
   stack and m layers in each.
3. Every branch has one scalar multiplier, initially 1, and a scalar bias, initially 0, before each
   linear layer and each activation.

A ViT's branches have m = 2: values and output projection, fc1 and fc2. Queries and keys only enter
the argument of the softmax and do not determine the scale of a signal; they stay as they are, as in
T-Fixup.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dyt_vision.normfree.block_model import BlockModel
from dyt_vision.normfree.scalars import ScalarBias, ScalarScale

LAYERS = 2
"""m: weight layers of a residual branch."""

FINAL_NORMS = ("norm", "fc_norm", "decoder_norm")
"""Norm layers before a linear layer outside the branches: head, decoder_embed, decoder_pred."""

CLASSIFIERS = ("head", "decoder_pred")


def install(blocks: BlockModel) -> list[str]:
    """Apply the three rules to a model without norm layers; return the scalars' paths."""
    model, put = blocks.model, blocks.put
    added = []
    for stack in blocks.stacks:
        branches = 2 * len(stack)
        for path in stack:
            block: Any = model.get_submodule(path)
            _rescale_block(block, branches ** (-1 / (2 * LAYERS - 2)))
            added += [put(f"{path}.{slot}", ScalarScale(1)) for slot in ("ls1", "ls2")]
            bias_slots = ("norm1", "attn.norm", "norm2", "mlp.norm")
            added += [put(f"{path}.{slot}", ScalarBias()) for slot in bias_slots]
            put(f"{path}.mlp.act", nn.Sequential(ScalarBias(), block.mlp.act))
            added.append(f"{path}.mlp.act.0")
    final = [p for p in blocks.norms if p.rpartition(".")[2] in FINAL_NORMS]
    added += [put(path, ScalarBias()) for path in final]
    for name in CLASSIFIERS:
        if isinstance(layer := getattr(model, name, None), nn.Linear):
            _set_zero(layer)
    return added


@torch.no_grad()
def _rescale_block(block: Any, scale: float) -> None:
    """Apply rules 1 and 2 to the weights of a timm Block."""
    _, _, values = block.attn.qkv.weight.chunk(3)
    values.mul_(scale)
    block.mlp.fc1.weight.mul_(scale)
    _set_zero(block.attn.proj)
    _set_zero(block.mlp.fc2)


def _set_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
