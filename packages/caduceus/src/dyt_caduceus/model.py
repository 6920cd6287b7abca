"""Caduceus: the backbone, the masked language model and the sequence classifier, PH and PS."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

import dyt
from dyt_caduceus.initialization import initialize
from dyt_caduceus.mamba import BidirectionalMamba
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_caduceus.strands import (
    SharedLayer,
    StrandEmbedding,
    StrandHead,
    complement_map,
    exchange_strands,
)
from dyt_hyenadna.tokenizer import COMPLEMENT, PAD

Pooling = Literal["all", "unpadded"]


class CaduceusBackbone(nn.Module):
    """Embedding, blocks and a last norm (Schiff et al. 2024, arXiv 2403.03234, Section 3).

    In the PS variant both strands of the sequences go through all layers, as two parts of a batch
    (``dyt_caduceus.strands``).
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.strand_exchange = network.strand_exchange
        self.embeddings = Embeddings(network)
        self.layers = nn.ModuleList(Block(network) for _ in range(network.layers))
        self.norm_f = _norm(network)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the hidden states of token ids, (B, L) → (B, L, C), or (2·B, L, C) for PS."""
        x, residual = self.embeddings(ids), None
        for layer in self.layers:
            if self.strand_exchange:
                x = exchange_strands(x)
                residual = None if residual is None else exchange_strands(residual)
            x, residual = layer(x, residual)
        hidden: Tensor = self.norm_f(x + residual)
        return hidden


class Embeddings(nn.Module):
    """Embedding of the tokens, under the official name."""

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        embedding = nn.Embedding(network.padded_vocabulary, network.width)
        one_strand = network.variant == "ph"
        self.word_embeddings = embedding if one_strand else StrandEmbedding(embedding)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings, as the backbone's output."""
        embedded: Tensor = self.word_embeddings(ids)
        return embedded


class Block(nn.Module):
    """A norm and a bidirectional Mamba in a residual branch.

    The branch's output is added to the residual stream at the start of the next block. Sum, norm
    and mixer are three steps in both arms; the official code by default fuses the first two in a
    kernel that contains its own norm and could not run any other.
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.norm = _norm(network)
        mixer = BidirectionalMamba(network)
        self.mixer = mixer if network.variant == "ph" else SharedLayer(mixer)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the branch's output and the residual stream that it is added to, (B, L, C)."""
        residual = x if residual is None else x + residual
        return self.mixer(self.norm(residual)), residual


class CaduceusLanguageModel(nn.Module):
    """Backbone with an output layer that shares the embedding's weights."""

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.network = network
        self.backbone = CaduceusBackbone(network)
        layer = nn.Linear(network.width, network.padded_vocabulary, bias=False)
        layer.weight = next(self.backbone.embeddings.parameters())
        self.lm_head = layer if network.variant == "ph" else StrandHead(layer)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every position's token, (B, L) → (B, L, padded vocabulary), float32.

        In the PS variant they are equivariant: for the reverse complement of a sequence, they are
        those of the complementary tokens in reverse order.
        """
        logits: Tensor = self.lm_head(self.backbone(ids))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def no_weight_decay(self) -> set[str]:
        """Return the names of matrices that are not decayed: embedding and A."""
        return undecayed_matrices(self)


class CaduceusClassifier(nn.Module):
    """Backbone with a linear layer on the mean of the hidden states over positions.

    The official classifier averages over all positions, padding included, and has no attention
    mask. Pooling "unpadded" averages over the positions without [PAD]; convolutions and scans still
    read them.

    In the PS variant the head is applied to both strands and the logits are averaged, always. A
    PH network sees one strand; with ``conjoin`` it does the same in evaluation mode ("post-hoc
    conjoining"), and training should then show it a random strand.
    """

    def __init__(
        self,
        network: CaduceusNetwork,
        classes: int,
        pooling: Pooling = "all",
        *,
        conjoin: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.pooling, self.conjoin = pooling, conjoin
        self.backbone = CaduceusBackbone(network)
        self.head = nn.Linear(network.width, classes)

    def forward(self, ids: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the logits of the classes, (B, L) → (B, classes).

        Args:
            ids: token ids, padded on the left if at all.
            other: ids of the other strand, for conjoining; None for the reverse complement of
                ``ids``. The official code cuts a sequence that is too long after it has taken the
                reverse complement, so that the strands are of different parts of it.
        """
        strands = [ids]
        if self.network.variant == "ph" and self.conjoin and not self.training:
            strands.append(reverse_complement(ids) if other is None else other)
        hidden, pads = self.backbone(torch.cat(strands)), torch.cat(strands) == PAD
        if self.network.variant == "ps":
            pads = torch.cat([pads, pads.flip(1)])
        logits: Tensor = self.head(self.pool(hidden, pads))
        # The strands of a sample, one or two, are len(ids) samples apart.
        return rearrange(logits, "(strands b) classes -> strands b classes", b=len(ids)).mean(0)

    def pool(self, hidden: Tensor, pads: Tensor) -> Tensor:
        """Average hidden states over positions, (B, L, C) → (B, C).

        Args:
            pads: True for the positions of [PAD], (B, L).
        """
        if self.pooling == "all":
            return hidden.mean(dim=1)
        kept = ~pads[..., None]
        # A sequence that consists of padding alone has mean 0.
        return (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def no_weight_decay(self) -> set[str]:
        """Return the names of matrices that are not decayed: embedding and A."""
        return undecayed_matrices(self)


def build_language_model(network: CaduceusNetwork, seed: int) -> CaduceusLanguageModel:
    """Build a masked language model with initial weights that depend on the seed alone."""
    model = CaduceusLanguageModel(network)
    initialize(model, network, seed)
    return model


def build_classifier(
    network: CaduceusNetwork,
    classes: int,
    seed: int,
    pooling: Pooling = "all",
    *,
    conjoin: bool = False,
) -> CaduceusClassifier:
    """Build a classifier with initial weights that depend on the seed alone.

    With the seed of a language model, the backbones of the two have the same weights.

    Args:
        pooling: "all" averages over all positions, as official; "unpadded" leaves [PAD] out.
        conjoin: average the logits of both strands in evaluation mode (PH; PS always does).
    """
    model = CaduceusClassifier(network, classes, pooling, conjoin=conjoin)
    initialize(model, network, seed)
    return model


def convert_norms(model: nn.Module, norm: dyt.Norm, *, calibrate: Any = None) -> dyt.Report:
    """Replace the RMSNorms in place by ``dyt.convert``, with a bias in DyT and Derf.

    An RMSNorm has none, and ``dyt.convert`` adds none. The papers' code for Caduceus has DyT's β in
    every layer, which γ·tanh(αx) + β here is to reproduce; it starts at 0.
    """
    report = dyt.convert(model, norm, calibrate=calibrate)
    for module in model.modules():
        if isinstance(module, dyt.DyT | dyt.Derf) and module.bias is None:
            assert module.weight is not None
            module.bias = nn.Parameter(torch.zeros_like(module.weight))
    return report


def optimizer_groups(
    model: CaduceusLanguageModel | CaduceusClassifier,
    *,
    lr: float,
    weight_decay: float,
    official: bool = False,
) -> list[dict[str, Any]]:
    """Return parameter groups: matrices with weight decay, all else without.

    Not decayed are parameters with one axis, α, γ and β of a norm among them, the embedding and A.

    Args:
        official: decay what the official trainer does: RMSNorm's weight and DyT's α and γ too,
            because it exempts nn.LayerNorm alone, and the bias of a classifier's head, because its
            rules are for the backbone.
    """
    groups = dyt.param_groups(model, weight_decay=weight_decay)
    if official:
        exempt = model.no_weight_decay()
        decayed: list[nn.Parameter] = []
        undecayed: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            is_bias = name.endswith("bias") and not name.startswith("head.")
            free = is_bias or name.endswith(".D") or name in exempt
            (undecayed if free else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
    return [{**group, "lr": lr} for group in groups]


def undecayed_matrices(model: nn.Module) -> set[str]:
    """Return the names of parameters with two axes that are not decayed: embedding and A."""
    endings = (".A_log", ".word_embeddings.weight", ".word_embeddings.embedding.weight")
    return {name for name, _ in model.named_parameters() if name.endswith(endings)}


def reverse_complement(ids: Tensor) -> Tensor:
    """Return the other strand of sequences that are padded on the left, padded in the same way.

    Args:
        ids: (B, L).
    """
    length = ids.shape[1]
    position = torch.arange(length, device=ids.device)
    pads = (ids == PAD).sum(1, keepdim=True)
    source = torch.where(position < pads, position, length - 1 - position + pads)
    return complement_map(len(COMPLEMENT)).to(ids.device)[ids.gather(1, source)]


def _norm(network: CaduceusNetwork) -> nn.Module:
    norm = nn.RMSNorm(network.width, eps=network.epsilon)
    # The official code has no wrapper around the norm in its fused path, which has the exchange.
    shared = network.variant == "ps" and not network.strand_exchange
    return SharedLayer(norm) if shared else norm
