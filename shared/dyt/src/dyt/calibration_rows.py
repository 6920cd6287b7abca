"""Rows of a norm layer's inputs and outputs, one for each position, that calibration collects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dyt.calibration_fit import Form
from dyt.norm_detection import BATCH_NORM, NormSpec, run_norm


class CalibrationError(ValueError):
    """An error found by a hook, inside the network's forward."""

    def __init__(self, message: str) -> None:
        super().__init__(f"calibrate: {message}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A norm layer to imitate, and the parameters to fit."""

    path: str
    module: nn.Module
    spec: NormSpec
    form: Form


@dataclass
class Collected:
    """Rows of one layer's inputs and outputs, collected over its calls."""

    x: list[Tensor] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    lengths: set[tuple[int, ...]] = field(default_factory=set)
    calls: int = 0


def rows_of(x: Tensor, spec: NormSpec) -> Tensor:
    """Return the inputs with one row of channels for each position."""
    if spec.channel_axis == 1:
        return x.movedim(1, -1).reshape(-1, x.shape[1])
    return x.reshape(-1, math.prod(x.shape[x.ndim - _channel_dims(spec) :]))


def unrows(rows: Tensor, x: Tensor, spec: NormSpec) -> Tensor:
    """Return rows in the shape of x."""
    if spec.channel_axis == 1:
        return rows.reshape(x.movedim(1, -1).shape).movedim(-1, 1)
    return rows.reshape(x.shape)


def _channel_dims(spec: NormSpec) -> int:
    return len(spec.shape) if spec.shape else 1


def position_sizes(x: Tensor, spec: NormSpec) -> tuple[int, ...]:
    """Return the sizes of all axes but channels: (B, T) for (B, T, C)."""
    if spec.channel_axis == 1:
        return (x.shape[0], *x.shape[2:])
    return tuple(x.shape[: x.ndim - _channel_dims(spec)])


def collect_rows(
    collected: Collected,
    target: Target,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    budget: int,
) -> None:
    """Add evenly spaced rows of one call, with at most `budget` values."""
    if target.form.affine in ("none", "scale") and target.spec.weight is not None:
        y = _normalized(target, x)
    elif target.spec.activation is not None:
        y = run_norm(target.module, target.spec, x, affine=True)
    sizes = position_sizes(x, target.spec)
    per_input = sizes[1:]
    length = math.prod(per_input)
    rows, outputs = rows_of(x, target.spec), rows_of(y, target.spec)
    count = len(rows)
    kept = torch.arange(count, device=x.device)
    if weights is not None:
        kept = kept[weights != 0]
    maximum = max(1, budget // max(1, rows.shape[1]))
    if len(kept) > maximum:
        # Whole inputs where possible, so all positions are represented.
        inputs = max(1, maximum // max(1, length))
        chosen = torch.linspace(0, sizes[0] - 1, min(inputs, sizes[0]), device=x.device).long()
        kept = kept[torch.isin(kept // max(1, length), chosen)] if length <= maximum else kept
        steps = torch.linspace(0, len(kept) - 1, min(maximum, len(kept)), device=x.device)
        kept = kept[steps.long()]
    rows, outputs = rows[kept].float(), outputs[kept].float()
    if not rows.isfinite().all() or not outputs.isfinite().all():
        raise CalibrationError(
            f"the input or output of {target.path!r} is not finite. Check the data, and that the"
            " network runs on them without NaN or infinity."
        )
    collected.x.append(rows)
    collected.target.append(outputs)
    collected.weights.append(
        torch.ones(len(kept), device=x.device) if weights is None else weights[kept]
    )
    collected.positions.append(kept % max(1, length))
    collected.lengths.add(per_input)
    collected.calls += 1


def _normalized(target: Target, x: Tensor) -> Tensor:
    """Return the norm layer's output with γ = 1 and β = 0."""
    if isinstance(
        target.module, BATCH_NORM
    ):  # at initialization its running statistics mean nothing
        axes = [axis for axis in range(x.ndim) if axis != target.spec.channel_axis % x.ndim]
        centered = x - x.mean(axes, keepdim=True)
        return centered * (centered.square().mean(axes, keepdim=True) + target.module.eps).rsqrt()
    return run_norm(target.module, target.spec, x, affine=False)
