"""Caduceus: the backbone, the masked language model and the sequence classifier, PH and PS."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dyt
from dyt_caduceus.initialization import initialize
from dyt_caduceus.mamba import BidirectionalMamba
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna.tokenizer import COMPLEMENT, PAD

Pooling = Literal["all", "unpadded"]


class CaduceusBackbone(nn.Module):
    """Embedding, blocks and a last norm (Schiff et al. 2024, arXiv 2403.03234, Section 3).

    In the PS variant both strands of a sequence go through the same layers (reverse-complement
    parameter sharing). They are two samples of a batch here, each in its own reading direction; the
    official code has them as two halves of the channels, of which it reverses the second one, in
    length and channels, before and after each layer. The function is the same.
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.strand_exchange = network.strand_exchange
        self.embeddings = Embeddings(network)
        self.layers = nn.ModuleList(Block(network) for _ in range(network.layers))
        self.norm_f = nn.RMSNorm(network.width, eps=network.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the hidden states of token ids, (B, L) → (B, L, C)."""
        x, residual = self.embeddings(ids), None
        for layer in self.layers:
            if self.strand_exchange:
                x = _exchange_strands(x)
                residual = None if residual is None else _exchange_strands(residual)
            x, residual = layer(x, residual)
        hidden: Tensor = self.norm_f(x if residual is None else x + residual)
        return hidden


class Embeddings(nn.Module):
    """Embedding of the tokens, under the official name."""

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(network.padded_vocabulary, network.width)

    def forward(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.word_embeddings(ids)
        return embedded


class Block(nn.Module):
    """A norm and a bidirectional Mamba in a residual branch.

    The sum with the residual stream is made at the start of the next block, as officially: adding,
    norm and mixer are three steps, in both arms. The official code fuses the first two by default,
    which no other layer than its own norm can take part in.
    """

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(network.width, eps=network.epsilon)
        self.mixer = BidirectionalMamba(network)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the branch's output and the residual stream it is to be added to, (B, L, C)."""
        residual = x if residual is None else x + residual
        return self.mixer(self.norm(residual)), residual


class CaduceusLanguageModel(nn.Module):
    """Backbone with an output layer that shares the embedding's weights."""

    complement: Tensor

    def __init__(self, network: CaduceusNetwork) -> None:
        super().__init__()
        self.network = network
        self.backbone = CaduceusBackbone(network)
        self.lm_head = nn.Linear(network.width, network.padded_vocabulary, bias=False)
        self.lm_head.weight = self.backbone.embeddings.word_embeddings.weight
        self.register_buffer("complement", complement_map(network), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every position's token, (B, L) → (B, L, padded vocabulary), float32.

        In the PS variant they are the sum of what both strands predict for a position, and
        equivariant: of the reverse complement, they are those of the complements, reversed.
        """
        if self.network.variant == "ph":
            return self.lm_head(self.backbone(ids)).float()
        strands = torch.cat([ids, self.complement[ids.flip(1)]])
        first, second = self.backbone(strands).chunk(2)
        weight = self.lm_head.weight[self.complement]
        return (self.lm_head(first) + F.linear(second.flip(1), weight)).float()

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

    complement: Tensor

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
        self.register_buffer("complement", complement_map(network), persistent=False)

    def forward(self, ids: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the logits of the classes, (B, L) → (B, classes).

        Args:
            ids: token ids, padded on the left if at all.
            other: ids of the other strand, for conjoining; None for the reverse complement of
                ``ids``. The official code cuts a sequence that is too long after it has taken the
                reverse complement, so that the strands are of different parts of it.
        """
        if self.network.variant == "ps":
            # The pads of this strand are on the right: the network sees exactly the reverse.
            other = self.complement[ids.flip(1)]
        elif not self.conjoin or self.training:
            return self.head(self.pool(self.backbone(ids), ids))
        elif other is None:
            other = self.reverse_complement(ids)
        strands = torch.cat([ids, other])
        first, second = self.head(self.pool(self.backbone(strands), strands)).chunk(2)
        return (first + second) / 2

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Average hidden states over positions, (B, L, C) → (B, C)."""
        if self.pooling == "all":
            return hidden.mean(dim=1)
        kept = (ids != PAD)[..., None].to(hidden.dtype)
        # A sequence that consists of padding alone has mean 0.
        return (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def reverse_complement(self, ids: Tensor) -> Tensor:
        """Return the other strand of sequences padded on the left, padded on the left, (B, L)."""
        position = torch.arange(ids.shape[1], device=ids.device)
        pads = (ids == PAD).sum(1, keepdim=True)
        source = torch.where(position < pads, position, ids.shape[1] - 1 - position + pads)
        return self.complement[ids.gather(1, source)]

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


def convert_norms(model: nn.Module, norm: dyt.Norm) -> dyt.Report:
    """Replace the RMSNorms in place by ``dyt.convert``, with a bias in DyT and Derf.

    An RMSNorm has none, and ``dyt.convert`` adds none. The papers' code for Caduceus has DyT's β in
    every layer, which γ·tanh(αx) + β here is to reproduce; it starts at 0.
    """
    report = dyt.convert(model, norm)
    for module in model.modules():
        if isinstance(module, dyt.DynamicTanh | dyt.DynamicErf) and module.bias is None:
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
        official: decay what the official trainer does: there, RMSNorm's weight and DyT's α and γ
            are decayed, because it exempts nn.LayerNorm alone.
    """
    groups = dyt.param_groups(model, weight_decay=weight_decay)
    if official:
        exempt = model.no_weight_decay()
        decayed, undecayed = [], []
        for name, parameter in model.named_parameters():
            free = name.endswith(("bias", ".D")) or name in exempt
            (undecayed if free else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
    return [{**group, "lr": lr} for group in groups]


def complement_map(network: CaduceusNetwork) -> Tensor:
    """Return the complement of every id, int64, (padded vocabulary,); other ids map to themselves.

    Raises:
        ValueError: if the vocabulary is smaller than the tokenizer's.
    """
    rows = network.padded_vocabulary
    if rows < len(COMPLEMENT):
        raise ValueError(
            f"padded_vocabulary is {rows}; expected {len(COMPLEMENT)} or more, for the tokenizer"
        )
    table = torch.arange(rows)
    table[: len(COMPLEMENT)] = torch.from_numpy(COMPLEMENT.astype("int64"))
    return table


def undecayed_matrices(model: nn.Module) -> set[str]:
    """Return the names of parameters with two axes that are not decayed: embedding and A."""
    names = [name for name, _ in model.named_parameters()]
    return {name for name in names if name.endswith((".A_log", "word_embeddings.weight"))}


def _exchange_strands(x: Tensor) -> Tensor:
    """Exchange the strands of hidden states (2·B, L, C), each read in the other one's direction."""
    first, second = x.chunk(2)
    return torch.cat([second, first]).flip(1, 2)
