"""Optimizers that got γ of a DyT layer but not its α, as from a rule that selects by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def add_missing_scalars(optimizer: torch.optim.Optimizer, layers: Iterable[nn.Module]) -> int:
    """Add α and s to the parameter group that has γ of their layer; return how many were added."""
    held = _held_ids([optimizer])
    owners = {id(layer.weight): layer for layer in layers if layer.weight is not None}
    added = 0
    for group in optimizer.param_groups:
        for parameter in list(group["params"]):
            layer = owners.get(id(parameter))
            for name, scalar in _trained_scalars(layer):
                if id(scalar) in held:
                    continue
                group["params"].append(scalar)
                if "param_names" in group:  # of an optimizer that was given named parameters
                    position = _position(group["params"], parameter)
                    path = group["param_names"][position].rpartition(".")[0]
                    group["param_names"].append(f"{path}.{name}" if path else name)
                held.add(id(scalar))
                added += 1
    return added


def layers_without_optimizer(
    layers: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Return the number of layers whose α has a gradient, but is in none of the optimizers."""
    held = _held_ids(optimizers)
    return sum(
        any(scalar.grad is not None and id(scalar) not in held for _, scalar in scalars)
        for scalars in map(_trained_scalars, layers)
    )


def _held_ids(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {id(parameter) for group in groups for parameter in group["params"]}


def _trained_scalars(layer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name in ("alpha", "shift"):
        scalar = getattr(layer, name, None)
        if isinstance(scalar, nn.Parameter) and scalar.requires_grad:
            yield name, scalar


def _position(parameters: list[torch.Tensor], wanted: torch.Tensor) -> int:
    return next(i for i, parameter in enumerate(parameters) if parameter is wanted)
