"""Reverse-complement parameter sharing: layers that both strands of a sequence go through (PS).

The strands are two parts of a batch here, (2·B, L, C): first all sequences, then all reverse
complements, each in its own reading direction. A layer that is shared thus needs no change. The
official code has the strands as two halves of the channels, (B, L, 2·C), and reverses the second
half in length and channels before and after each layer; the functions are the same (Schiff et al.
2024, arXiv 2403.03234, Section 3.2). Parameters have the official names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_hyenadna.tokenizer import COMPLEMENT


class SharedLayer(nn.Module):
    """A layer under the official name that it has where both strands share it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.submodule = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        out: Tensor = self.submodule(x)
        return out


class StrandEmbedding(nn.Module):
    """Embedding of a sequence and of its reverse complement."""

    complement_map: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.register_buffer("complement_map", complement_map(embedding.num_embeddings))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of both strands, (B, L) → (2·B, L, C)."""
        embedded: Tensor = self.embedding(torch.cat([ids, self.complement_map[ids.flip(1)]]))
        return embedded


class StrandHead(nn.Module):
    """Output layer whose logits are the sum of what both strands predict for a position."""

    complement_map: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.lm_head = layer
        self.register_buffer("complement_map", complement_map(layer.out_features))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits of the first strand's tokens, (2·B, L, C) → (B, L, rows)."""
        first, second = hidden.chunk(2)
        # What the other strand predicts is the complement.
        other = F.linear(second.flip(1), self.lm_head.weight[self.complement_map])
        logits: Tensor = self.lm_head(first) + other
        return logits


def exchange_strands(x: Tensor) -> Tensor:
    """Exchange the strands of hidden states (2·B, L, C), each read in the other one's direction."""
    first, second = x.chunk(2)
    return torch.cat([second, first]).flip(1, 2)


def complement_map(rows: int) -> Tensor:
    """Return the complement of every id, int64, (rows,).

    Raises:
        ValueError: if there are fewer rows than the tokenizer has ids, with its padding.
    """
    if rows < len(COMPLEMENT):
        raise ValueError(
            f"padded_vocabulary is {rows}; expected {len(COMPLEMENT)} or more, for the tokenizer"
        )
    return torch.cat([torch.from_numpy(COMPLEMENT).long(), torch.arange(len(COMPLEMENT), rows)])
