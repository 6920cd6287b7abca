"""Official DNA networks from a checkout, for benchmarks: imports without CUDA packages.

The official trainers import flash-attn and Lightning even where a network uses only plain layers of
theirs. Those layers are replaced here by equal ones, and all else by empty modules.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

ABSENT = {  # module → names that are imported from it and not used by the networks
    "flash_attn.modules.mha": ("MHA", "ParallelMHA"),
    "flash_attn.utils.distributed": ("sync_shared_params", "all_gather_raw"),
    "opt_einsum": ("contract",),
    "pytorch_lightning": (),
}


class Embeddings(nn.Module):
    """Token embedding without positions: flash-attn's GPT2Embeddings for no positions."""

    def __init__(self, width: int, vocabulary: int, positions: int, **_: object) -> None:
        super().__init__()
        assert positions == 0
        self.word_embeddings = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, position_ids: None = None) -> Tensor:
        return self.word_embeddings(ids)


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, width: int, hidden_features: int, activation, **_: object) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_features)
        self.activation = activation
        self.fc2 = nn.Linear(hidden_features, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block that passes the residual stream and the last branch's output separately."""

    def __init__(self, width: int, mixer_cls, mlp_cls, norm_cls, **options: object) -> None:
        super().__init__()
        self.mixer, self.norm1 = mixer_cls(width), norm_cls(width)
        self.mlp, self.norm2 = mlp_cls(width), norm_cls(width)
        self.dropout1 = nn.Dropout(options["resid_dropout1"])
        self.dropout2 = nn.Dropout(options["resid_dropout2"])

    def forward(
        self, x: Tensor, residual: Tensor | None = None, mixer_kwargs: dict | None = None
    ) -> tuple[Tensor, Tensor]:
        dropped = self.dropout1(x)
        residual = dropped if residual is None else dropped + residual
        mixed = self.dropout2(self.mixer(self.norm1(residual), **(mixer_kwargs or {})))
        residual = mixed + residual
        return self.mlp(self.norm2(residual)), residual


def add_module(name: str, **content: object) -> None:
    """Register a module and its parents, as if they were installed."""
    parent, _, child = name.rpartition(".")
    if parent and parent not in sys.modules:
        add_module(parent)
    sys.modules[name] = module = ModuleType(name)
    module.__dict__.update(content)
    if parent:
        setattr(sys.modules[parent], child, module)


def prepare(checkout: Path) -> None:
    """Put a checkout on the path, and the replacements where it looks for its dependencies."""
    if str(checkout) in sys.path:
        return
    if not (checkout / "src/models/sequence/long_conv_lm.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of HazyResearch/hyena-dna or of Caduceus")
    sys.path.insert(0, str(checkout))
    for name, attributes in ABSENT.items():
        add_module(name, **dict.fromkeys(attributes))
    add_module("pytorch_lightning.utilities", rank_zero_only=lambda function: function)
    add_module("flash_attn.modules.block", Block=Block)
    add_module(
        "flash_attn.modules.embedding", GPT2Embeddings=Embeddings, ParallelGPT2Embeddings=None
    )
    add_module("flash_attn.modules.mlp", Mlp=Mlp, FusedMLP=None, ParallelFusedMLP=None)
    add_module("flash_attn.utils.generation", GenerationMixin=type("GenerationMixin", (), {}))


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
