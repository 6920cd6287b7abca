"""Estimated memory: shapes, the sum for 7B, and how it follows the settings.

test_two_processes.py compares it with sharded models.
"""

from dataclasses import replace

import pytest

from dyt_llama.config import Pretraining
from dyt_llama.memory import layer_shapes, other_shapes
from dyt_llama.model import build_on_meta
from dyt_llama.network_config import LLAMA_1B4, LLAMA_7B
from matched import Resources
from matched.memory import GIB

from .tiny import DYT, NETWORK, OWN

SHARDED = Resources(gpus=512, minutes=1, shard=True, shard_degree=8)
LARGE = Pretraining(
    network=LLAMA_7B, steps=1, batch=1024, micro_batch=2, lr=1.0, precision="bf16-params"
)


@pytest.mark.parametrize("network", [LLAMA_1B4, NETWORK], ids=lambda n: str(n.depth))
@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
def test_shapes_are_those_of_the_network(network, norm):
    scale = norm == DYT
    model = build_on_meta(network, norm, embedding_scale=scale).model
    shapes = network.depth * layer_shapes(network, norm) + other_shapes(network, norm, scale)
    actual = [(len(p), p.numel() // len(p)) for p in model.parameters()]
    assert sorted(shapes) == sorted(actual)


def test_memory_of_7b_has_the_sum_of_its_parts():
    estimate = LARGE.memory(SHARDED)
    numbers = 6_738_415_616
    assert estimate.weights == 4 * numbers // 8
    assert estimate.total == 4 * estimate.weights + estimate.gathered + estimate.activations
    # Two samples of 4,096 tokens; 32 layers of (20 + 4) · 4096 and 8 · 11008 bytes per token.
    layers = 2 * 4096 * 32 * (24 * 4096 + 8 * 11008 + 4 * 32)
    assert layers < estimate.activations < 1.1 * layers
    assert 60 < estimate.total / GIB < 65


@pytest.mark.parametrize(
    "changes, smaller",
    [
        ({"checkpointed": 1.0}, "activations"),
        ({"micro_batch": 1}, "activations"),
        ({"norm": DYT}, "activations"),
        ({"precision": "bf16-reduce"}, "gathered"),
    ],
    ids=str,
)
def test_memory_follows_the_settings(changes, smaller):
    before, after = LARGE.memory(SHARDED), replace(LARGE, **changes).memory(SHARDED)
    assert getattr(after, smaller) < getattr(before, smaller)


def test_memory_grows_without_sharding():
    alone = replace(LARGE, precision="bf16").memory(Resources(gpus=512, minutes=1))
    assert alone.weights == 4 * 6_738_415_616
    assert alone.total > 100 * GIB


def test_memory_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="a batch of 1024 does not divide evenly over 384"):
        LARGE.memory(Resources(gpus=384, minutes=1, shard=True))
