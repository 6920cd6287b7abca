"""Training state of a learner under flat names, independent of the number of processes.

"model.<key>", "ema.<key>" and "optimizer.<parameter name>.<key>": a state saved by any number of
processes, sharded or not, can be restored on any other number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from matched.training.learner import Learner


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Content of a checkpoint.

    Attributes:
        tensors: flat name → full tensor, or DTensor with this process's part.
        plain: everything else, in values that ``torch.load(weights_only=True)`` accepts.
    """

    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]


TensorLayout = Callable[[str], torch.Tensor | None]
"""Flat name → a tensor of this process that is sharded in the same way; None if there is none."""


def capture_state(learner: Learner, **plain: Any) -> TrainingState:
    """Return the learner's state and further plain values; tensors are not copied."""
    values = _model_tensors(learner)
    names = learner.parameter_names()
    for parameter, state in learner.optimizer.state.items():
        assert isinstance(parameter, nn.Parameter), "the optimizer updates parameters"
        values |= {f"optimizer.{names[parameter]}.{key}": value for key, value in state.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in learner.optimizer.param_groups  # some optimizers count their steps in these
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
    """Return how the learner's tensors are sharded; optimizer state is like its parameter."""
    tensors = _model_tensors(learner)
    tensors |= {f"optimizer.{name}": p for p, name in learner.parameter_names().items()}

    def layout(name: str) -> torch.Tensor | None:
        return tensors.get(name.rpartition(".")[0] if name.startswith("optimizer.") else name)

    return layout


def restore_state(learner: Learner, state: TrainingState) -> None:
    """Load a state into the learner, sharded like the learner.

    AdamW's step counts stay on the CPU: on a GPU, every step would wait for them.

    Raises:
        RuntimeError: if the state belongs to another model.
    """
    layout = tensor_layout(learner)
    values = {name: _distribute(tensor, layout(name)) for name, tensor in state.tensors.items()}
    values |= state.plain["values"]
    learner.model.load_state_dict(_with_prefix("model.", values))
    if learner.ema is not None:
        learner.ema.module.load_state_dict(_with_prefix("ema.", values))
    optimizer, names = learner.optimizer, learner.parameter_names()
    optimizer_state: dict[str, dict[str, Any]] = {}
    for name, value in _with_prefix("optimizer.", values).items():
        parameter, _, key = name.rpartition(".")
        optimizer_state.setdefault(parameter, {})[key] = value
    # torch numbers the parameters of an optimizer in the order of its groups.
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    numbers = iter(range(len(order)))
    optimizer.load_state_dict(
        {
            "state": {
                i: optimizer_state[name] for i, name in enumerate(order) if name in optimizer_state
            },
            "param_groups": [
                {**plain, "params": [next(numbers) for _ in group["params"]]}
                for plain, group in zip(state.plain["groups"], optimizer.param_groups, strict=True)
            ],
        }
    )


def _model_tensors(learner: Learner) -> dict[str, Any]:
    """Flat name → value of the state dicts of model and EMA."""
    values = {f"model.{key}": value for key, value in learner.model.state_dict().items()}
    if learner.ema is not None:
        ema = learner.ema.module.state_dict()
        values |= {f"ema.{key}": value for key, value in ema.items()}
    return values


def _distribute(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """Return this process's part of a full tensor if ``like`` is sharded, else the tensor."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _with_prefix(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values whose names have the prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
