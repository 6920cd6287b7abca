"""Positions of norm layers that a network's outputs depend on, found by one backward pass.

A network that returns its class token alone makes its last norm layer's outputs at all other
positions meaningless, and an α fitted to them would be wrong for the class token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dyt.calibration_rows import Target

Masks = dict[nn.Module, list[Tensor]]
"""For each call of a norm layer, a bool tensor of the shape of its positions."""


def find_influence(targets: Sequence[Target], run: Callable[[], Any]) -> Masks:
    """Return the positions at which a change of a norm layer's output changes the network's.

    Layers without any such position are omitted, as those before a layer that is initialized to
    zero, and so are all layers if the outputs are not differentiable.

    Args:
        targets: the norm layers.
        run: runs the network on one batch and returns its outputs.
    """
    offsets: list[tuple[Target, Tensor]] = []

    def make_hook(target: Target) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, y: Tensor) -> Tensor:
            offset = torch.zeros_like(y, requires_grad=True)
            offsets.append((target, offset))
            return y + offset

        return hook

    try:
        with ExitStack() as stack, torch.enable_grad():
            for target in targets:
                stack.callback(target.module.register_forward_hook(make_hook(target)).remove)
            total = _project(run())
            if total is None:
                return {}
            leaves = [offset for _, offset in offsets]
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    except Exception:  # third-party code may support no gradients; all positions then count
        return {}
    masks: Masks = {}
    for (target, offset), gradient in zip(offsets, gradients, strict=True):
        nonzero = torch.zeros_like(offset) if gradient is None else gradient
        masks.setdefault(target.module, []).append(_any_channel(nonzero != 0, target))
    return {module: calls for module, calls in masks.items() if any(map(torch.any, calls))}


def _project(outputs: Any) -> Tensor | None:
    """Return a scalar that depends on all differentiable outputs: a fixed random projection.

    Their sum could be constant, as that of probabilities.
    """
    tensors = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
    if not tensors:
        return None
    generator = torch.Generator().manual_seed(0)
    projections = [
        (t.float() * torch.randn(t.shape, generator=generator).to(t.device)).sum() for t in tensors
    ]
    return torch.stack([p.to(projections[0].device) for p in projections]).sum()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _any_channel(nonzero: Tensor, target: Target) -> Tensor:
    """Reduce (B, T, C), or (B, C, …) for channels at axis 1, to the positions."""
    if target.spec.channel_axis == 1:
        return nonzero.any(1)
    dims = len(target.spec.shape) if target.spec.shape else 1
    return nonzero.flatten(nonzero.ndim - dims).any(-1)
