"""Sharding with FSDP2, for models whose weights and optimizer state exceed one GPU's memory.

Every process starts with the full model, equal on all of them, and keeps its part of each
parameter; or with a model on the meta device, of which it then allocates its part only. Parameters
are gathered block by block while a block computes. With HSDP, several groups of processes have a
copy of the weights each, which is sharded within the group; only gradients cross groups.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from matched.checks import check_divides
from matched.training.learner import Learner

POLICIES = {
    "bf16-params": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    "bf16-reduce": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16),
}
"""Precisions of ``TrainConfig`` that only sharded runs have."""


def shard(
    learner: Learner, device: torch.device, *, precision: str = "fp32", degree: int = 0
) -> None:
    """Shard the model, its EMA and the future optimizer state over processes, in place.

    Args:
        precision: that of the config; ``POLICIES`` has those that matter here.
        degree: number of processes that share one copy of the weights; 0 for all.

    Raises:
        ValueError: if sharding would change what the model computes, or the degree does not divide
            the number of processes.
    """
    _check_shardable(learner)
    names = learner.group_names()
    mesh = device_mesh(device, degree)
    policy = POLICIES.get(precision, MixedPrecisionPolicy())
    _fully_shard(learner.model, mesh, policy)
    if learner.ema is not None:
        _fully_shard(learner.ema.module, mesh, policy)
    learner.replace_parameters(names)


def device_mesh(device: torch.device, degree: int = 0) -> DeviceMesh:
    """Return a mesh of all processes: (shard,), or (replicate, shard) if there are several copies.

    Ranks of one copy are consecutive, so a copy is within a node if the degree divides its GPUs.
    """
    world_size = dist.get_world_size()
    check_divides("shard_degree", degree or world_size, "the number of processes", world_size)
    if degree in (0, world_size):
        return init_device_mesh(device.type, (world_size,))
    return init_device_mesh(
        device.type, (world_size // degree, degree), mesh_dim_names=("replicate", "shard")
    )


def materialize(learner: Learner) -> None:
    """Allocate and initialize this process's part of a model on the meta device."""
    assert learner.materialize is not None and learner.ema is None
    names = learner.group_names()
    learner.materialize()
    learner.replace_parameters(names)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return a model's blocks: children of each outermost container with a repeated child class."""
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        # Nested lists are not blocks: a ModuleList has no forward pass, which FSDP needs.
        classes = Counter(type(child) for child in children if type(child) is not nn.ModuleList)
        if classes and max(classes.values()) > 1:
            return children
    return [block for child in children for block in blocks(child)]


def reshard(module: nn.Module) -> None:
    """Free the full weights gathered by an evaluation, which has no backward pass to free them."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _fully_shard(module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    for block in blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def _check_shardable(learner: Learner) -> None:
    for name, module in learner.model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.track_running_stats
        ):
            raise ValueError(
                f"{name} is a batch norm, whose running statistics would differ between processes; "
                "use SyncBatchNorm, or train without shard"
            )
    if learner.ema is not None:
        state = learner.ema.module.state_dict()
        parameters = dict(learner.ema.module.named_parameters())
        for name, tensor in state.items():
            if name not in parameters and tensor.is_floating_point():
                raise ValueError(
                    f"{name} is a floating-point buffer, which an EMA of sharded weights cannot "
                    "average; train without ema_decay or without shard"
                )
