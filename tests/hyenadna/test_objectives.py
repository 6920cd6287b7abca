"""Pretraining objectives as functions of ids: targets, ignored positions, losses."""

import math

import pytest
import torch
import torch.nn.functional as F

from dyt_hyenadna.objectives import (
    divide_windows,
    masked_tokens,
    next_token,
    token_loss,
    unigram_entropy,
)
from dyt_hyenadna.tokenizer import MASK, PAD, SEP, A, C, G, N, T


def test_next_token_predicts_every_base_and_the_separator():
    inputs, targets = next_token(torch.tensor([A, C, N, T]))
    assert inputs.tolist() == [A, C, N, T]
    assert targets.tolist() == [C, N, T, SEP]


def test_masked_tokens_have_the_published_shares():
    torch.manual_seed(0)
    ids = torch.full((200_000,), A)
    inputs, targets = masked_tokens(ids, probability=0.15)
    chosen = targets != PAD
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.003)
    assert (inputs[~chosen] == A).all() and (targets[chosen] == A).all()
    masked = (inputs[chosen] == MASK).float().mean().item()
    # A twelfth of the random tokens are [MASK], and a twelfth A again.
    assert masked == pytest.approx(0.8 + 0.1 / 12, abs=0.01)
    assert (inputs[chosen] == A).float().mean().item() == pytest.approx(0.1 + 0.1 / 12, abs=0.01)
    assert set(inputs[chosen].tolist()) == set(range(12))


def test_masked_tokens_depend_on_the_global_seed_only():
    ids = torch.randint(7, 11, (64,))
    torch.manual_seed(3)
    first = masked_tokens(ids, 0.15)
    torch.manual_seed(3)
    assert all(map(torch.equal, first, masked_tokens(ids, 0.15)))
    assert not torch.equal(first[1], masked_tokens(ids, 0.15)[1])


def test_token_loss_ignores_padding_targets():
    logits = torch.randn(2, 5, 16)
    targets = torch.tensor([[A, C, PAD, G, PAD], [PAD, T, A, PAD, SEP]])
    counted = targets != PAD
    expected = F.cross_entropy(logits[counted], targets[counted])
    assert token_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_token_loss_without_targets_is_zero_with_zero_gradient():
    logits = torch.randn(1, 3, 16, requires_grad=True)
    loss = token_loss(logits, torch.full((1, 3), PAD))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_unigram_entropy_of_equal_shares_is_log_of_their_number():
    counts = torch.zeros(16)
    counts[[A, C, G, T]] = 25.0
    assert unigram_entropy(counts) == pytest.approx(math.log(4))
    assert unigram_entropy(torch.zeros(16)) == 0


def test_divide_windows_keeps_order_and_number_of_tokens():
    inputs, targets = torch.arange(24).reshape(2, 12), torch.arange(24, 48).reshape(2, 12)
    short = divide_windows((inputs, targets), 4)
    assert short[0].tolist()[1] == [4, 5, 6, 7] and short[0].shape == short[1].shape == (6, 4)
    assert divide_windows((inputs, targets), 12)[0] is inputs
