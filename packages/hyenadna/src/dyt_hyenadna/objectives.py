"""Pretraining objectives: next token and masked tokens, as functions of token ids.

Positions whose target is [PAD] are ignored, as upstream's ``ignore_index`` of 4 does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyt_hyenadna.tokenizer import MASK, PAD, SEP, VOCABULARY

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK] and a random token; the others stay."""


def next_token(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and target ``(L,)`` of next-token prediction: [SEP] follows the last base.

    Args:
        ids: ``(L,)``.
    """
    extended = torch.cat([ids, ids.new_tensor([SEP])])
    return extended[:-1], extended[1:]


def masked_tokens(ids: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Draw input and target ``(L,)`` of masked language modelling (Devlin et al. 2019).

    Every position is chosen with the probability, special tokens included; a random token is any of
    the vocabulary, special tokens included, as upstream draws it.

    Args:
        ids: ``(L,)``.
        probability: of choosing a position.

    Returns:
        Input, and target with [PAD] at the positions that are not chosen.
    """
    chosen = torch.rand(ids.shape) < probability
    action = torch.rand(ids.shape)
    tokens = torch.randint(VOCABULARY, ids.shape, dtype=ids.dtype)
    masked = chosen & (action < MASK_SHARE)
    random = chosen & (action >= MASK_SHARE) & (action < MASK_SHARE + RANDOM_SHARE)
    inputs = torch.where(random, tokens, ids.masked_fill(masked, MASK))
    return inputs, ids.masked_fill(~chosen, PAD)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the positions that count, in nats.

    Without such a position it is 0, so that a batch of N alone changes nothing.

    Args:
        logits: ``(B, L, V)``.
        targets: ``(B, L)``.
    """
    total, count = token_loss_sum(logits, targets)
    return total / count.clamp(min=1)


def token_loss_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy, in nats, and the number of positions that count."""
    total = F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=PAD, reduction="sum"
    )
    return total, (targets != PAD).sum()


def unigram_entropy(counts: Tensor) -> float:
    """Return the lowest loss in nats of a prediction that is the same at every position.

    Args:
        counts: number of targets of every id, ``(V,)``.
    """
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum())


def divide_windows(pair: tuple[Tensor, Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Divide inputs and targets ``(B, L)`` into sequences: ``(B · L / length, length)``.

    With a ``length`` of L or more they stay as they are.
    """
    inputs, targets = pair
    if length >= inputs.shape[-1]:
        return pair
    return inputs.reshape(-1, length), targets.reshape(-1, length)
