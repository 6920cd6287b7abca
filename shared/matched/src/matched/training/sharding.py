"""Models whose weights and optimizer state do not fit one GPU several times over: FSDP2.

Every process begins with the whole model, equal on all of them, and keeps its part of each
parameter. The parts are put together block by block, whenever a block computes.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from matched.training.learner import Learner


def shard(learner: Learner, device: torch.device) -> None:
    """Spread the model, its average and what the optimizer will keep over all processes.

    Raises:
        ValueError: if the model cannot be sharded without a change of what it computes.
    """
    assert not learner.optimizer.state, "the optimizer has made steps already"
    _check(learner)
    names = [
        [learner.parameter_names()[p] for p in group["params"]]
        for group in learner.optimizer.param_groups
    ]
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    _shard(learner.model, mesh)
    if learner.ema is not None:
        _shard(learner.ema.module, mesh)
    parameters = dict(learner.model.named_parameters())
    for group, of_group in zip(learner.optimizer.param_groups, names, strict=True):
        group["params"] = [parameters[name] for name in of_group]


def units(module: nn.Module) -> list[nn.Module]:
    """The blocks of a model: children of each outermost container in which a class recurs."""
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        # A list of lists is no list of blocks: a list computes nothing itself.
        blocks = Counter(type(child) for child in children if type(child) is not nn.ModuleList)
        if blocks and max(blocks.values()) > 1:
            return children
    return [unit for child in children for unit in units(child)]


def reshard(module: nn.Module) -> None:
    """Let go of the weights that an evaluation has put together and no backward pass frees."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _shard(module: nn.Module, mesh: DeviceMesh) -> None:
    for unit in units(module):
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)


def _check(learner: Learner) -> None:
    for name, module in learner.model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.track_running_stats
        ):
            raise ValueError(
                f"{name} is a batch norm, whose running statistics would differ from one process "
                "to the next; use SyncBatchNorm, or train without shard"
            )
    if learner.ema is not None:
        state = learner.ema.module.state_dict()
        weights = dict(learner.ema.module.named_parameters())
        for name, tensor in state.items():
            if name not in weights and tensor.is_floating_point():
                raise ValueError(
                    f"the model keeps {name}, which is no parameter, and an average of it cannot "
                    "be taken along with sharded weights; train without average or without shard"
                )
