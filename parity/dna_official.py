"""Official HyenaDNA networks from a checkout, and the optimizer of the official trainers.

The trainers of HyenaDNA and Caduceus import flash-attn and Lightning even where a network uses only
plain layers of theirs; `dyt_upstream.shims.flash_attn` has equal ones.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt_hyenadna.network_config import HyenaNetwork
from dyt_upstream.shims.flash_attn import add_module, provide_flash_attn


def prepare(checkout: Path) -> None:
    """Put a checkout on the path, and the replacements where it looks for its dependencies."""
    if str(checkout) in sys.path:
        return
    if not (checkout / "src/models/sequence/long_conv_lm.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of HazyResearch/hyena-dna or of Caduceus")
    sys.path.insert(0, str(checkout))
    if find_spec("opt_einsum") is None:
        add_module("opt_einsum", contract=None)
    if find_spec("pytorch_lightning") is None:
        add_module("pytorch_lightning.utilities", rank_zero_only=lambda function: function)
    if "flash_attn" not in sys.modules and find_spec("flash_attn") is None:
        provide_flash_attn()


class OfficialLogits(nn.Module):
    """Official language model that returns logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)[0].logits


class OfficialClassifier(nn.Module):
    """Official backbone for downstream tasks with the official decoder, which averages positions.

    Its names are those of our classifier.
    """

    def __init__(self, model: nn.Module, width: int, classes: int) -> None:
        from src.tasks.decoders import SequenceDecoder

        super().__init__()
        self.backbone = model.backbone
        decoder = SequenceDecoder(width, classes, l_output=0, mode="pool")
        self.head = decoder.output_transform
        self.parts = [model, decoder]
        """In a list, so that their parameters have one name."""

    def forward(self, ids: Tensor) -> Tensor:
        model, decoder = self.parts
        return decoder(model(ids)[0])


def language_model(network: HyenaNetwork, filter_lr: float = 1e-4) -> nn.Module:
    """Return the official language model of these sizes."""
    from src.models.sequence.long_conv_lm import ConvLMHeadModel

    return ConvLMHeadModel(**_sizes(network, filter_lr))


def classifier(network: HyenaNetwork, classes: int, filter_lr: float = 1e-4) -> nn.Module:
    """Return the official sequence classifier of these sizes."""
    from src.models.sequence.dna_embedding import DNAEmbeddingModel

    model = DNAEmbeddingModel(**_sizes(network, filter_lr))
    return OfficialClassifier(model, network.width, classes)


def _sizes(network: HyenaNetwork, filter_lr: float) -> dict[str, Any]:
    """Return the arguments of the official networks."""
    return {
        "d_model": network.width,
        "n_layer": network.layers,
        "d_inner": network.mlp_ratio * network.width,
        "vocab_size": network.vocabulary,
        "embed_dropout": network.dropout,
        "residual_in_fp32": True,
        "pad_vocab_size_multiple": network.vocabulary_multiple,
        "layer": {
            "_name_": "hyena",
            "emb_dim": network.filter_features,
            "filter_order": network.filter_width,
            "l_max": network.max_length,
            "modulate": True,
            "w": network.filter_frequency,
            "lr": filter_lr,
            "wd": 0.0,
            "lr_pos_emb": 0.0,
        },
    }


def trainer_optimizer(model: nn.Module, backbone: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return AdamW with the groups of the official trainers.

    Args:
        backbone: the part whose parameters the trainer exempts from weight decay by its rules; the
            head of a classifier is outside.
    """
    from src.utils.optim_groups import add_optimizer_hooks

    add_optimizer_hooks(backbone)
    groups: dict[frozenset[tuple[str, float]], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        options = frozenset(getattr(parameter, "_optim", {}).items())
        groups.setdefault(options, []).append(parameter)
    parameters = [{"params": group, **dict(options)} for options, group in groups.items()]
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1, betas=(0.9, 0.95))


def hyenadna(checkout: Path, length: int, ours: nn.Module) -> nn.Module:
    """Return the official language model with the sizes and weights of ours, for benchmarks."""
    prepare(checkout)
    model = language_model(ours.network)
    model.load_state_dict(ours.state_dict())
    official = OfficialLogits(model)
    ids = torch.randint(7, 11, (1, min(length, 256)))
    with torch.no_grad():
        assert torch.allclose(official.eval()(ids), ours.eval()(ids), atol=1e-5)
    ours.train()
    return official.train()
