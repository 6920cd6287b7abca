"""Estimated memory: shapes, the sum for 7B, and how it follows the settings.

test_two_processes.py compares it with sharded models.
"""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dyt_llama.config import Pretraining, ZeroShot
from dyt_llama.memory import estimate_scoring_memory, layer_shapes, other_shapes
from dyt_llama.model import build, build_on_meta
from dyt_llama.network_config import LLAMA_1B4, LLAMA_7B, LLAMA_34B, LLAMA_70B
from matched import Resources
from matched.memory import GIB

from ..messages import refused
from .tiny import CPU, DYT, NETWORK, OWN

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


LAYER = 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096
REST = 2 * 32_000 * 4096 + 4096
NUMBERS = 32 * LAYER + REST
"""Parameters of LLaMA 7B: of a layer, of embedding, output layer and last norm, and of all."""


@pytest.mark.parametrize(
    ("precision", "resources", "gathered"),
    [
        # Embedding, output layer and two layers; the output layer's and a layer's gradients.
        (
            "bf16-params",
            SHARDED,
            2 * (REST + 2 * LAYER) + 2 * 32_000 * 4096 + (2 + 4) * LAYER,
        ),
        (
            "bf16-reduce",
            SHARDED,
            2 * (REST + 2 * LAYER) + 2 * 32_000 * 4096 + (2 + 2) * LAYER,
        ),
        ("fp32", SHARDED, 4 * (REST + 2 * LAYER) + 4 * 32_000 * 4096 + (4 + 4) * LAYER),
        ("fp32", Resources(gpus=8, minutes=1), 4 * NUMBERS),  # DDP's buckets
        ("bf16", Resources(gpus=8, minutes=1), (4 + 2) * NUMBERS),  # and autocast's copies
        ("bf16", Resources(gpus=1, minutes=1), 2 * NUMBERS),
        ("fp32", Resources(gpus=1, minutes=1), 0),
    ],
)
def test_gathered_memory_of_7b_is_exact(precision, resources, gathered):
    config = replace(LARGE, precision=precision)
    assert config.memory(resources).gathered == gathered


# Bytes per token, in bf16-params: of a norm, and of a layer with two of them.
NORM = 4096 * (2 + 2 + 4)
KEPT = 2 * NORM + 2 * (4 * 4096 + 4 * 11_008) + 4 * 32
LOGITS = 12 * 32_000 * 4096


@pytest.mark.parametrize(
    ("changes", "activations"),
    [
        ({}, 8192 * (32 * KEPT + NORM) + LOGITS),
        ({"norm": DYT}, 8192 * (32 * (KEPT - 2 * 4 * 4096) + NORM - 4 * 4096) + LOGITS),
        (
            {"checkpointed": 1.0},
            8192 * (32 * 2 * 4096 + NORM) + 8192 * (3 * 11_008 * 2 + KEPT),
        ),
        (
            {"checkpointed": 0.25},
            8192 * (8 * 2 * 4096 + 24 * KEPT + NORM) + 8192 * (3 * 11_008 * 2 + KEPT),
        ),
        ({"micro_batch": 1, "length": 1024}, 1024 * (32 * KEPT + NORM) + 12 * 32_000 * 1024),
    ],
    ids=str,
)
def test_activations_of_7b_are_exact(changes, activations):
    assert replace(LARGE, **changes).memory(SHARDED).activations == activations


def test_own_part_of_a_shard_is_rounded_up_by_rows():
    layer = layer_shapes(LLAMA_1B4, OWN)
    kv = 2048 // 16 * 4
    assert layer[1] == layer[2] == (kv, 2048)
    resources = Resources(gpus=48, minutes=1, shard=True, shard_degree=3)
    own = replace(LARGE, network=LLAMA_1B4, batch=96).memory(resources).weights
    rows = {2048: 683, kv: 171, 6144: 2048, 32_000: 10_667}
    of_layer = 2 * 683 * 2048 + 2 * 171 * 2048 + 2 * 2048 * 2048 + 683 * 6144 + 2 * 683
    assert all(-(-count // 3) == part for count, part in rows.items())
    assert own == 4 * (24 * of_layer + 2 * 10_667 * 2048 + 683)


def test_memory_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="a batch of 1024 does not divide evenly over 384"):
        LARGE.memory(Resources(gpus=384, minutes=1, shard=True))


# --- scores


class Peak(TorchDispatchMode):
    """Most bytes that tensors have had at a time, without those of a model."""

    def __init__(self, model):
        super().__init__()
        self.live = self.bytes = 0
        self.sizes = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage):
        address, size = storage.data_ptr(), storage.nbytes()
        if address and address not in self.sizes:
            self.sizes[address] = size
            self.live += size
            self.bytes = max(self.bytes, self.live)
            weakref.finalize(storage, self.remove, address)

    def remove(self, address):
        self.live -= self.sizes.pop(address)


@pytest.mark.parametrize("changes", [{"vocabulary": 301}, {"vocabulary": 3001, "ffn": 160}])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
def test_memory_of_a_scoring_is_its_measured_peak(changes, precision, norm):
    network = replace(NETWORK, **{"width": 64, "ffn": 320, "positions": 128, **changes})
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = build(network, norm, seed=0, device=CPU).model.to(dtype).eval()
    tokens = torch.arange(4 * 128).reshape(4, 128) % network.vocabulary
    estimate = estimate_scoring_memory(
        network, norm, embedding_scale=False, tokens=tokens.numel(), precision=precision
    )
    with torch.no_grad(), Peak(model) as peak:
        model(tokens).logits.log_softmax(-1)
    assert estimate.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert estimate.activations == pytest.approx(peak.bytes, rel=0.1)
    assert estimate.total == estimate.weights + estimate.activations


@pytest.mark.parametrize(
    ("network", "least", "most"), [(LLAMA_7B, 12, 20), (LLAMA_34B, 62, 75), (LLAMA_70B, 128, 141)]
)
def test_memory_of_a_scoring_has_the_whole_network(network, least, most):
    """The README of the package names GPUs of 80 GB for 34B, and of more than 140 GB for 70B."""
    needs = {"pretrained": replace(LARGE, network=network)}
    estimate = ZeroShot().memory_with_needs(Resources(gpus=8, minutes=1), needs)
    assert least < estimate.total / GIB < most


def test_memory_of_a_scoring_without_a_network_is_refused():
    assert refused(ZeroShot().memory_with_needs, Resources(minutes=1), {}) == (
        "a ZeroShot needs the run whose network it scores: expected "
        'needs={"pretrained": …} with a Pretraining'
    )


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("fp32", 4)])
def test_memory_of_a_scoring_is_exact(precision, size):
    config = ZeroShot(batch=3, precision=precision)
    needs = {"pretrained": replace(LARGE, network=LLAMA_7B)}
    estimate = config.memory_with_needs(Resources(gpus=1, minutes=1), needs)
    assert estimate.weights == size * NUMBERS
    assert estimate.activations == 3 * 2048 * size * (4 * 4096 + 2 * 32_000)
    assert estimate.gradients == estimate.optimizer == estimate.gathered == 0
    wide = replace(LLAMA_7B, ffn=64_000)
    needs = {"pretrained": replace(LARGE, network=wide)}
    estimate = config.memory_with_needs(Resources(gpus=1, minutes=1), needs)
    assert estimate.activations == 3 * 2048 * size * (4 * 4096 + 3 * 64_000)
