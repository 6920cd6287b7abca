"""Chunked cross-entropy: equal to the plain one, in values and gradients, with bounded memory."""

import pytest
import torch
from torch import nn

from dyt_llama.chunked_loss import chunked_cross_entropy


def problem():
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 8, generator=source).requires_grad_()
    head = nn.Linear(8, 11, bias=False)
    nn.init.normal_(head.weight, generator=source)
    targets = torch.randint(11, (3, 7), generator=source)
    targets[1, 2:5] = -100
    return hidden, head, targets


@pytest.mark.parametrize("chunk", [1, 4, 7, 20, 21, 100])
def test_chunked_cross_entropy_equals_the_plain_one(chunk):
    hidden, head, targets = problem()
    loss = chunked_cross_entropy(hidden, head, targets, chunk)
    loss.backward()
    plain_hidden, plain_head, _ = problem()
    logits = plain_head(plain_hidden).flatten(0, 1)
    plain = nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(hidden.grad, plain_hidden.grad)
    torch.testing.assert_close(head.weight.grad, plain_head.weight.grad)


def test_chunked_cross_entropy_keeps_no_logits_for_the_backward_pass():
    hidden, head, targets = problem()
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked_cross_entropy(hidden, head, targets, 4)
    assert all(count <= hidden.numel() for count in saved)
    assert sum(saved) < 2 * hidden.numel() + head.weight.numel() * 6


def test_chunked_cross_entropy_is_computed_in_float32():
    hidden, head, targets = problem()
    loss = chunked_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets, 4)
    assert loss.dtype == torch.float32


def test_chunked_cross_entropy_of_ignored_targets_is_0():
    hidden, head, targets = problem()
    loss = chunked_cross_entropy(hidden, head, torch.full_like(targets, -100), 4)
    assert loss.item() == 0
