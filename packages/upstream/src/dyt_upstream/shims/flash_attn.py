"""flash-attn's plain layers without flash-attn, which needs a GPU to be installed.

The trainer of HyenaDNA, of which Caduceus has a copy, imports flash-attn even where a network uses
only plain layers of it. They are replaced by equal layers; the other names are None.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

UNUSED = {  # module → names that are imported from it and not used by the networks
    "flash_attn.modules.mha": ("MHA", "ParallelMHA"),
    "flash_attn.utils.distributed": ("sync_shared_params", "all_gather_raw"),
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

    def __init__(self, width: int, hidden_features: int, activation: Any, **_: object) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_features)
        self.activation = activation
        self.fc2 = nn.Linear(hidden_features, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block that passes the residual stream and the last branch's output separately."""

    def __init__(
        self, width: int, mixer_cls: Any, mlp_cls: Any, norm_cls: Any, **options: Any
    ) -> None:
        super().__init__()
        self.mixer, self.norm1 = mixer_cls(width), norm_cls(width)
        self.mlp, self.norm2 = mlp_cls(width), norm_cls(width)
        self.dropout1 = nn.Dropout(options["resid_dropout1"])
        self.dropout2 = nn.Dropout(options["resid_dropout2"])

    def forward(
        self, x: Tensor, residual: Tensor | None = None, mixer_kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        dropped = self.dropout1(x)
        residual = dropped if residual is None else dropped + residual
        mixed = self.dropout2(self.mixer(self.norm1(residual), **(mixer_kwargs or {})))
        residual = mixed + residual
        return self.mlp(self.norm2(residual)), residual


def add_module(name: str, **content: object) -> None:
    """Register an empty module, its parents, and its content in sys.modules."""
    parent, _, child = name.rpartition(".")
    if parent and parent not in sys.modules:
        add_module(parent)
    sys.modules[name] = module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # which libraries look for
    module.__dict__.update(content)
    if parent:
        setattr(sys.modules[parent], child, module)


def provide_flash_attn() -> None:
    """Register the modules of flash-attn that the trainer imports."""
    for name, attributes in UNUSED.items():
        add_module(name, **dict.fromkeys(attributes))
    add_module("flash_attn.modules.block", Block=Block)
    add_module(
        "flash_attn.modules.embedding", GPT2Embeddings=Embeddings, ParallelGPT2Embeddings=None
    )
    add_module("flash_attn.modules.mlp", Mlp=Mlp, FusedMLP=None, ParallelFusedMLP=None)
    add_module("flash_attn.utils.generation", GenerationMixin=type("GenerationMixin", (), {}))
