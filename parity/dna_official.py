"""Official DNA networks from a checkout, for benchmarks: imports without CUDA packages.

The official trainers import flash-attn and Lightning even where a network uses only plain layers of
theirs; `dyt_upstream.shims.flash_attn` has equal ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from dyt_upstream.shims.flash_attn import add_module, provide_flash_attn


def prepare(checkout: Path) -> None:
    """Put a checkout on the path, and the replacements where it looks for its dependencies."""
    if str(checkout) in sys.path:
        return
    if not (checkout / "src/models/sequence/long_conv_lm.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of HazyResearch/hyena-dna or of Caduceus")
    sys.path.insert(0, str(checkout))
    add_module("opt_einsum", contract=None)
    add_module("pytorch_lightning.utilities", rank_zero_only=lambda function: function)
    provide_flash_attn()


class OfficialLogits(nn.Module):
    """Official language model that returns logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)[0].logits


def hyenadna(checkout: Path, length: int, ours: nn.Module) -> nn.Module:
    """Return the official language model with the sizes and weights of ours."""
    prepare(checkout)
    from src.models.sequence.long_conv_lm import ConvLMHeadModel

    network = ours.network
    model = ConvLMHeadModel(
        d_model=network.width,
        n_layer=network.layers,
        d_inner=network.mlp_ratio * network.width,
        vocab_size=network.vocabulary,
        embed_dropout=network.dropout,
        residual_in_fp32=True,
        pad_vocab_size_multiple=network.vocabulary_multiple,
        layer={
            "_name_": "hyena",
            "emb_dim": network.filter_features,
            "filter_order": network.filter_width,
            "l_max": network.max_length,
            "modulate": True,
            "w": network.filter_frequency,
            "lr": 1e-4,
            "wd": 0.0,
            "lr_pos_emb": 0.0,
        },
    )
    model.load_state_dict(ours.state_dict())
    official = OfficialLogits(model)
    ids = torch.randint(7, 11, (1, min(length, 256)))
    with torch.no_grad():
        assert torch.allclose(official.eval()(ids), ours.eval()(ids), atol=1e-5)
    ours.train()
    return official.train()
