"""Sharding with FSDP2, for models whose weights and optimizer state exceed one GPU's memory.

Every process starts with the full model, equal on all of them, and keeps its part of each
parameter; or with a model on the meta device, of which it then allocates its part only. Parameters
are gathered block by block while a block computes.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from matched.training.learner import Learner


def shard(learner: Learner, device: torch.device, *, bf16_params: bool = False) -> None:
    """Shard the model, its EMA and the future optimizer state over all processes, in place.

    Args:
        bf16_params: gather parameters, and compute, in bfloat16; gradients are reduced, and
            weights kept and updated, in float32.

    Raises:
        ValueError: if sharding would change what the model computes.
    """
    _check_shardable(learner)
    names = learner.group_names()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if bf16_params:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    _fully_shard(learner.model, mesh, policy)
    if learner.ema is not None:
        _fully_shard(learner.ema.module, mesh, policy)
    learner.replace_parameters(names)


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
