"""All that a learner has learned, by flat names that mean the same on any number of processes.

"model.<key>", "ema.<key>" and "optimizer.<parameter name>.<key>": so what several processes
hold in parts can be restored on one, or on another number, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from matched.training.learner import Learner


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        tensors: by flat name, whole or (DTensor) this process's part.
        plain: everything else, in values that ``torch.load(weights_only=True)`` takes.
    """

    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]


TensorLayout = Callable[[str], torch.Tensor | None]
"""Flat name → the tensor that this process has for it, or whose shape and place it shares."""


def capture_state(learner: Learner, **plain: Any) -> TrainingState:
    """The learner's state and whatever else is to be kept with it; no copies are made."""
    values = {f"model.{key}": value for key, value in learner.model.state_dict().items()}
    if learner.ema is not None:
        ema = learner.ema.module.state_dict()
        values |= {f"ema.{key}": value for key, value in ema.items()}
    names = learner.parameter_names()
    for parameter, kept in learner.optimizer.state.items():
        values |= {f"optimizer.{names[parameter]}.{key}": value for key, value in kept.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in learner.optimizer.param_groups  # in which some optimizers count their steps
    ]
    return TrainingState(
        tensors={name: v for name, v in values.items() if isinstance(v, torch.Tensor)},
        plain={
            "values": {n: v for n, v in values.items() if not isinstance(v, torch.Tensor)},
            "groups": groups,
            **plain,
        },
    )


def tensor_layout(learner: Learner) -> TensorLayout:
    """How the learner's tensors are spread over the processes."""
    known = {f"model.{key}": value for key, value in learner.model.state_dict().items()}
    if learner.ema is not None:
        ema = learner.ema.module.state_dict()
        known |= {f"ema.{key}": value for key, value in ema.items()}
    known |= {f"optimizer.{name}": p for p, name in learner.parameter_names().items()}

    def like(name: str) -> torch.Tensor | None:
        return known.get(name.rpartition(".")[0] if name.startswith("optimizer.") else name)

    return like


def restore_state(learner: Learner, state: TrainingState) -> None:
    """Put a checkpoint's state into the learner, spread as the learner is.

    AdamW's step counts stay on the CPU: on a GPU, every step would wait for them.

    Raises:
        RuntimeError: if it is the state of another model.
    """
    like = tensor_layout(learner)
    values = {name: _spread(tensor, like(name)) for name, tensor in state.tensors.items()}
    values |= state.plain["values"]
    learner.model.load_state_dict(_below("model.", values))
    if learner.ema is not None:
        learner.ema.module.load_state_dict(_below("ema.", values))
    optimizer, names = learner.optimizer, learner.parameter_names()
    kept: dict[str, dict[str, Any]] = {}
    for name, value in _below("optimizer.", values).items():
        parameter, _, key = name.rpartition(".")
        kept.setdefault(parameter, {})[key] = value
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    numbers = iter(range(len(order)))
    optimizer.load_state_dict(
        {
            "state": {i: kept[name] for i, name in enumerate(order) if name in kept},
            "param_groups": [
                {**plain, "params": [next(numbers) for _ in group["params"]]}
                for plain, group in zip(state.plain["groups"], optimizer.param_groups, strict=True)
            ],
        }
    )


def _spread(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """This process's part of a whole tensor, if that is what the learner has in its place."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _below(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
