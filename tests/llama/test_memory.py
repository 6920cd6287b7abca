"""Estimated memory: sizes of the papers, parts of real sharded models, kept activations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dyt_llama import memory
from dyt_llama.config import Pretraining
from dyt_llama.memory import layer_shapes, other_shapes
from dyt_llama.model import build_on_meta
from dyt_llama.network_config import LLAMA_1B4, LLAMA_7B, LLAMA_70B
from matched import Resources
from matched.memory import GIB

from ..training.processes import run as run_in_two_processes
from .tiny import DYT, OWN
from .two_processes_memory import CASES

SHARDED = Resources(gpus=512, minutes=1, shard=True, shard_degree=8)
LARGE = Pretraining(
    network=LLAMA_7B, steps=1, batch=1024, micro_batch=2, lr=1.0, precision="bf16-params"
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Case → bytes that two processes measured, the larger of both."""
    folder = tmp_path_factory.mktemp("memory")
    run_in_two_processes(Path(__file__).with_name("two_processes_memory.py"), folder)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {
        case: {part: max(rank[case][part] for rank in ranks) for part in ranks[0][case]}
        for case in CASES
    }


@pytest.mark.parametrize("network", [LLAMA_1B4, LLAMA_7B, LLAMA_70B], ids=lambda n: str(n.depth))
@pytest.mark.parametrize("norm", [OWN, DYT], ids=str)
def test_shapes_are_those_of_the_network(network, norm):
    scale = norm == DYT
    model = build_on_meta(network, norm, embedding_scale=scale).model
    shapes = network.depth * layer_shapes(network, norm) + other_shapes(network, norm, scale)
    actual = [(len(p), p.numel() // len(p)) for p in model.parameters()]
    assert sorted(shapes) == sorted(actual)


@pytest.mark.parametrize("case", CASES)
def test_parts_equal_those_of_a_sharded_model(measured, case):
    config, resources = CASES[case]
    estimate = config.memory(resources)
    found = measured[case]
    assert estimate.weights == found["weights"] > 0
    assert estimate.gradients == found["gradients"]
    assert estimate.optimizer == found["optimizer"]


@pytest.mark.parametrize("case", ["rmsnorm", "dyt", "fp32", "recomputed"])
def test_kept_activations_are_those_of_a_sharded_model(measured, case):
    """What autograd keeps, without weights, logits and the inputs of recomputed layers."""
    config, _ = CASES[case]
    tokens = 2 * config.length
    with_loss = 4 * config.network.vocabulary * tokens
    kept = memory.kept_activations(
        config.network, config.norm, config.precision, config.checkpointed
    )
    inputs = 4 * config.network.width * round(config.checkpointed * config.network.depth)
    found = measured[case]["kept"] - with_loss
    assert found == pytest.approx(tokens * (kept - inputs), rel=0.03)


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
