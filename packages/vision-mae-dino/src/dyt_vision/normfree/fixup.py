"""Fixup (Zhang, Dauphin & Ma, arXiv 1901.09321), for Transformers as T-Fixup argues (Huang et al.).

Three rules (Section 3 there), so that a step of size lr changes the function by O(lr) however
deep the network is:

1. The classification layer and the last layer of every residual branch start at zero.
2. The other weight layers of a branch are scaled by L^(-1/(2m-2)), with L residual branches in the
   stack and m layers in each.
3. Every branch has one scalar multiplier, 1 at the start, and a scalar bias, 0 at the start, before
   each linear layer and each activation.

A ViT's branches have m = 2: values and output projection, fc1 and fc2. Queries and keys are in
softmax's argument, set no signal's size, and stay as they are, as in T-Fixup.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import nn

from dyt_vision.normfree.scalars import ScalarBias, ScalarScale
from dyt_vision.normfree.transformer import Transformer

LAYERS = 2
"""m: weight layers of a residual branch."""

FINAL_NORMS = ("norm", "fc_norm", "decoder_norm")
"""Norm layers before a linear layer that is in no branch: head, decoder_embed, decoder_pred."""

CLASSIFIERS = ("head", "decoder_pred")


def install(transformer: Transformer) -> list[str]:
    """Apply the three rules to a Transformer without norm layers; returns the scalars' paths."""
    model, put = transformer.model, transformer.put
    added = []
    for stack in transformer.stacks:
        branches = 2 * len(stack)
        for path in stack:
            block = model.get_submodule(path)
            _initialise(block, branches ** (-1 / (2 * LAYERS - 2)))
            added += [put(f"{path}.{slot}", ScalarScale(1)) for slot in ("ls1", "ls2")]
            biased = ("norm1", "attn.norm", "norm2", "mlp.norm")
            added += [put(f"{path}.{slot}", ScalarBias()) for slot in biased]
            put(f"{path}.mlp.act", nn.Sequential(ScalarBias(), block.mlp.act))
            added.append(f"{path}.mlp.act.0")
    final = [p for p in transformer.norms if p.rpartition(".")[2] in FINAL_NORMS]
    added += [put(path, ScalarBias()) for path in final]
    for name in CLASSIFIERS:
        if isinstance(layer := getattr(model, name, None), nn.Linear):
            _zero(layer)
    return added


@torch.no_grad()
def _initialise(block: Block, scale: float) -> None:
    values = block.attn.qkv.weight.chunk(3)[2]
    values.mul_(scale)
    block.mlp.fc1.weight.mul_(scale)
    _zero(block.attn.proj)
    _zero(block.mlp.fc2)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
