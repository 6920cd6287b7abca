"""Bytes of small sharded models, measured in two processes, for two_processes.py."""

import json
from dataclasses import replace
from functools import partial

import torch
from torch.distributed.tensor import DTensor

from dyt_llama.model import build_on_meta, checkpoint_layers, materialize
from dyt_llama.network_config import Network
from dyt_llama.pretraining import mean_loss, optimizer
from matched import Resources
from matched.training import Learner, sharding
from matched.training.distributed import process_group

from .tiny import CONFIG as TINY
from .tiny import CPU, DYT, OWN, context

NETWORK = Network(width=64, depth=4, heads=4, kv_heads=4, ffn=160, vocabulary=301, positions=128)
CONFIG = replace(
    TINY, network=NETWORK, norm=OWN, embedding_scale=False, length=128, batch=4, micro_batch=2
)
SHARDED = Resources(processes=2, minutes=1, shard=True)
CASES = {
    "rmsnorm": (replace(CONFIG, precision="bf16-params"), SHARDED),
    "dyt": (
        replace(CONFIG, precision="bf16-params", norm=DYT, embedding_scale=True),
        SHARDED,
    ),
    "fp32": (CONFIG, SHARDED),
    "recomputed": (replace(CONFIG, checkpointed=0.5), replace(SHARDED, shard_degree=1)),
}
"""Name → config and resources."""


def measure(config, resources):
    """Bytes of this process: weights, gradients, optimizer state, and what autograd keeps."""
    built = build_on_meta(config.network, config.norm, embedding_scale=config.embedding_scale)
    model = built.model
    checkpoint_layers(model, config.checkpointed)
    learner = Learner(
        model=model,
        optimizer=optimizer(model, config),
        dataset=[],
        loss=mean_loss,
        evaluate=None,
        selection_metric=("loss", "lower"),
        norms=built.differing,
        materialize=partial(materialize, model, seed=0, device=CPU),
    )
    sharding.shard(learner, CPU, precision=config.precision, degree=resources.shard_degree)
    sharding.materialize(learner)
    kept = {}

    def keep(tensor):
        gathered = [p for p in model.parameters() if not isinstance(p, DTensor)]
        weights = {p.untyped_storage().data_ptr() for p in gathered}
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    tokens = torch.arange(2 * (config.length + 1)).reshape(2, -1) % config.network.vocabulary
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = mean_loss(model, tokens)
    kept_bytes = sum(size for _, size in kept.values())
    loss.backward()
    learner.optimizer.step()
    parameters = list(model.parameters())
    states = [s for p in parameters for n, s in learner.optimizer.state[p].items() if n != "step"]
    return {
        "weights": local_bytes(parameters),
        "gradients": local_bytes([p.grad for p in parameters]),
        "optimizer": local_bytes(states),
        "kept": kept_bytes,
    }


def local_bytes(tensors):
    assert all(isinstance(tensor, DTensor) for tensor in tensors)
    return sum(t.to_local().numel() * t.to_local().element_size() for t in tensors)


def write_memory(folder, rank):
    """Measure all cases in this process, and write them to a file."""
    with process_group(context(folder, signature="memory", rank=rank, world_size=2)):
        measured = {case: measure(*setting) for case, setting in CASES.items()}
    (folder / f"memory-{rank}.json").write_text(json.dumps(measured))
