"""HyenaDNA: the backbone, the language model and the sequence classifier, with official names."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dyt_hyenadna.hyena_operator import HyenaOperator
from dyt_hyenadna.initialization import initialize
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.tokenizer import PAD

Pooling = Literal["all", "unpadded"]


class HyenaBackbone(nn.Module):
    """Embedding, blocks and a last norm (Nguyen et al. 2023, arXiv 2306.15794, Section 3.1).

    The network is causal: an output depends on the positions up to its own. There are no positional
    embeddings outside the filters, and no dropout after the first, which follows the embedding.
    """

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        self.embeddings = Embeddings(network)
        self.dropout = nn.Dropout(network.dropout)
        self.layers = nn.ModuleList(Block(network) for _ in range(network.layers))
        self.ln_f = nn.LayerNorm(network.width, eps=network.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the hidden states of token ids, (B, L) → (B, L, D).

        Raises:
            ValueError: if a sequence is longer than the filters.
        """
        x = self.dropout(self.embeddings(ids))
        for layer in self.layers:
            x = layer(x)
        return self.ln_f(x)


class Embeddings(nn.Module):
    """Embedding of the tokens, under the official name."""

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(network.padded_vocabulary, network.width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.word_embeddings(ids)


class Block(nn.Module):
    """Hyena operator and MLP, each after a norm and around a residual connection.

    Under autocast the residual stream stays in float32, as with the official ``residual_in_fp32``.
    """

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(network.width, eps=network.epsilon)
        self.mixer = HyenaOperator(network)
        self.norm2 = nn.LayerNorm(network.width, eps=network.epsilon)
        self.mlp = Mlp(network)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Mlp(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them."""

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        self.fc1 = nn.Linear(network.width, network.mlp_ratio * network.width)
        self.activation = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(network.mlp_ratio * network.width, network.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class HyenaLanguageModel(nn.Module):
    """Backbone with an output layer that shares the embedding's weights."""

    def __init__(self, network: HyenaNetwork) -> None:
        super().__init__()
        self.network = network
        self.backbone = HyenaBackbone(network)
        self.lm_head = nn.Linear(network.width, network.padded_vocabulary, bias=False)
        self.lm_head.weight = self.backbone.embeddings.word_embeddings.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the next token, (B, L) → (B, L, padded vocabulary)."""
        return self.lm_head(self.backbone(ids))


class HyenaClassifier(nn.Module):
    """Backbone with a linear layer on the mean of the hidden states over positions.

    The official classifier averages over all positions, padding included, and has no attention
    mask: its padding is on the left and enters the convolutions of all positions. With the pooling
    "unpadded" the mean leaves [PAD] out; the convolutions still read it.
    """

    def __init__(self, network: HyenaNetwork, classes: int, pooling: Pooling = "all") -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.backbone = HyenaBackbone(network)
        self.head = nn.Linear(network.width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the classes, (B, L) → (B, classes)."""
        return self.head(self.pool(self.backbone(ids), ids))

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Average hidden states over positions, (B, L, D) → (B, D)."""
        if self.pooling == "all":
            return hidden.mean(dim=1)
        kept = (ids != PAD)[..., None].to(hidden.dtype)
        # A sequence that consists of padding alone has mean 0.
        return (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def build_language_model(network: HyenaNetwork, seed: int) -> HyenaLanguageModel:
    """Build a language model with initial weights that depend on the seed alone."""
    model = HyenaLanguageModel(network)
    initialize(model, network, seed)
    return model


def build_classifier(
    network: HyenaNetwork, classes: int, seed: int, pooling: Pooling = "all"
) -> HyenaClassifier:
    """Build a classifier with initial weights that depend on the seed alone.

    With the seed of a language model, the backbones of the two have the same weights.

    Args:
        pooling: "all" averages over all positions, as official; "unpadded" leaves [PAD] out.
    """
    model = HyenaClassifier(network, classes, pooling)
    initialize(model, network, seed)
    return model
