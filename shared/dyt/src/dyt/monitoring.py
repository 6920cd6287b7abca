"""Values of the DyT layers of a network: α and s by path, and saturation in forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyt.calibration_fit import SATURATED
from dyt.layers import Derf, DyT
from dyt.norm_survey import DYNAMIC


def alphas(model: nn.Module) -> dict[str, float]:
    """Return α of each DyT and Derf layer by the layer's path, and s of Derf by `path.shift`.

    Layers without α are omitted. Sharded parameters (FSDP2's DTensor) are gathered: with them, all
    processes must call this function.
    """
    values = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, DYNAMIC):
            continue
        for name, parameter in ((path, layer.alpha), (f"{path}.shift", layer.shift)):
            if parameter is not None:
                values[name] = _gathered(parameter).item()
    return values


def _gathered(parameter: Tensor) -> Tensor:
    """Return a parameter's full value; DTensor is not imported, which would take long."""
    full_tensor = getattr(parameter, "full_tensor", None)
    return parameter if full_tensor is None else full_tensor()


@dataclass
class InputStatistics:
    """Statistics of one layer's inputs, over all calls.

    Attributes:
        values: the number of values.
        rms: their root mean square.
        saturated: the share with |αx + s| > 2, where the slope of tanh is below 0.07.
    """

    values: int = 0
    rms: float = 0.0
    saturated: float = 0.0


@contextmanager
def watch_saturation(model: nn.Module) -> Iterator[dict[str, InputStatistics]]:
    """Record statistics of the inputs of each DyT and Derf layer, by path, within a `with` block.

    A layer that is not called keeps `values` = 0. Uses forward hooks, so the network must not be
    compiled.
    """
    layers = {path: m for path, m in model.named_modules() if isinstance(m, DYNAMIC)}
    statistics = {path: InputStatistics() for path in layers}

    def record(layer: DyT | Derf, x: torch.Tensor, result: InputStatistics) -> None:
        x = x.detach().float()
        u = x if layer.alpha is None else x * layer.alpha.detach().float()
        u = u if layer.shift is None else u + layer.shift.detach().float()
        count = result.values + x.numel()
        squares = result.rms**2 * result.values + x.square().sum().item()
        saturated = result.saturated * result.values + (u.abs() > SATURATED).sum().item()
        result.values = count
        result.rms = (squares / count) ** 0.5 if count else 0.0
        result.saturated = saturated / count if count else 0.0

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, result=statistics[path]: record(
                module, (*args, *kwargs.values())[0], result
            ),
            with_kwargs=True,
        )
        for path, layer in layers.items()
    ]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()
