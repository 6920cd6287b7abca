"""Analysis of a network's norm layers: inputs, outputs without γ and β, and how S-shaped they are.

CVPR 2025, Figures 2, 4, 7 and 8: the outputs of LN against its inputs are S-shaped in deep layers,
and DyT's α follows 1/std of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dyt.backends.reference import formula
from dyt.calibration_rows import rows_of
from dyt.norm_detection import NormSpec, read_norm, run_norm
from dyt.norm_survey import DYNAMIC

LINEAR_PART = 0.5
"""|αx| up to which tanh(αx) counts as linear: it is at most 8 % below αx there."""
GRID = 200
"""Values of α that a fit tries, in equal ratios; neighbours differ by 4 %."""


@dataclass(frozen=True, kw_only=True)
class NormRecord:
    """Inputs and outputs of one norm layer at some positions of a batch, without γ and β.

    Attributes:
        x, y: (N, C) in float32, one row for each position (token or pixel).
        input_std: standard deviation of all inputs of the batch.
        alpha: α of a DyT or Derf layer; None for other layers.
    """

    x: Tensor
    y: Tensor
    input_std: float
    alpha: float | None


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """Best line k·x + c and best curve s·tanh(αx) + c through the points of a layer.

    Both have an offset, because LN subtracts the mean of each token.

    Attributes:
        line_error, tanh_error: standard deviation of the residuals over that of the outputs.
        linear_share: share of the points with |αx| <= ``LINEAR_PART``.
    """

    slope: float
    line_offset: float
    line_error: float
    scale: float
    alpha: float
    tanh_offset: float
    tanh_error: float
    linear_share: float

    @property
    def gain(self) -> float:
        """Part of the line's squared error that the curve removes: 0 for a straight line."""
        return 1 - (self.tanh_error / self.line_error) ** 2 if self.line_error else 0.0


def record_norms(
    model: nn.Module,
    forward: Callable[[], Any],
    *,
    paths: Collection[str] | None = None,
    positions: int = 64,
    seed: int = 0,
) -> dict[str, NormRecord]:
    """Return a record of each norm layer's first call in ``forward``, by path, in that order.

    Args:
        model: any network with LN, RMSNorm, DyT or Derf layers, or hand-written ones.
        forward: calls the model on a batch.
        paths: paths of the layers; None for all.
        positions: number of rows to keep of each layer, chosen at random.
        seed: seed of this choice.

    Raises:
        ValueError: the network has no norm layer at these paths.
    """
    layers = {
        path: (module, spec)
        for path, module in model.named_modules()
        if (paths is None or path in paths) and (spec := _spec(module)) is not None
    }
    if not layers:
        known = "" if paths is None else f" at {', '.join(paths) or 'no path'}"
        raise ValueError(f"{type(model).__name__} has no norm layer{known}")
    records: dict[str, NormRecord] = {}

    def hook(path: str) -> Callable[..., None]:
        module, spec = layers[path]

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in records:
                x = (*args, *kwargs.values())[0]
                records[path] = _record(module, spec, x.detach(), positions, seed)

        return record

    handles = [
        module.register_forward_pre_hook(hook(path), with_kwargs=True)
        for path, (module, _) in layers.items()
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return records


def _spec(module: nn.Module) -> NormSpec | None:
    """Return shape and channel axis of a norm layer, or None for any other module."""
    if isinstance(module, DYNAMIC):
        return NormSpec(
            shape=module.normalized_shape,
            channel_axis=module.channel_axis,
            weight=module.weight,
            bias=module.bias,
        )
    try:
        return read_norm(module)
    except ValueError:  # a LayerNorm by class that computes something else
        return None


def _record(module: nn.Module, spec: NormSpec, x: Tensor, positions: int, seed: int) -> NormRecord:
    alpha = None
    if isinstance(module, DYNAMIC):
        y = formula(x, module.alpha, module.shift, None, None, module.squash, spec.channel_axis)
        alpha = None if module.alpha is None else module.alpha.item()
    else:
        y = run_norm(module, spec, x, affine=False)
    rows, outputs = rows_of(x.float(), spec), rows_of(y.float(), spec)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    chosen = order[:positions].sort().values.to(rows.device)
    return NormRecord(
        x=rows[chosen].cpu(),
        y=outputs[chosen].cpu(),
        input_std=rows.double().std().item(),
        alpha=alpha,
    )


def fit_curve(x: Tensor, y: Tensor) -> CurveFit:
    """Fit a line and s·tanh(αx) + c to points by least squares; α is the best of a fine grid.

    Args:
        x, y: tensors of equal shape.
    """
    x, y = x.double().flatten(), y.double().flatten()
    centered = y - y.mean()
    total = centered.square().sum()
    rms = x.square().mean().sqrt()

    def regression(basis: Tensor) -> tuple[float, float, float]:
        """Return the best factor of the basis, the offset, and the relative error."""
        deviation = basis - basis.mean()
        squares = deviation.square().sum()
        if not squares or not total:
            return 0.0, y.mean().item(), float(total > 0)
        factor = (deviation @ centered) / squares
        error = (centered - factor * deviation).square().sum()
        return factor.item(), (y.mean() - factor * basis.mean()).item(), math.sqrt(error / total)

    slope, line_offset, line_error = regression(x)
    # The ends are practically a line and a step for all points.
    grid = (torch.logspace(-2, 1.5, GRID, dtype=torch.float64) / (rms or 1.0)).tolist()
    fits = [(*regression(torch.tanh(alpha * x)), alpha) for alpha in grid]
    scale, tanh_offset, tanh_error, alpha = min(fits, key=lambda fit: fit[2])
    return CurveFit(
        slope=slope,
        line_offset=line_offset,
        line_error=line_error,
        scale=scale,
        alpha=alpha,
        tanh_offset=tanh_offset,
        tanh_error=tanh_error,
        linear_share=(x.abs() * alpha <= LINEAR_PART).double().mean().item(),
    )


def to_arrays(records: Mapping[str, NormRecord]) -> dict[str, Any]:
    """Return the records and their fits as numpy arrays for one .npz file.

    "path" (L,), "alpha" and "input_std" (L,), with NaN for no α; "fit" (L, K), whose columns
    "fit_columns" (K,) names; and "x0", "y0", "x1", …, (N, C) of each layer in half precision.
    """
    alphas = [math.nan if r.alpha is None else r.alpha for r in records.values()]
    fits = [astuple(fit_curve(record.x, record.y)) for record in records.values()]
    arrays: dict[str, Any] = {
        "path": np.array(list(records)),
        "alpha": np.array(alphas),
        "input_std": np.array([record.input_std for record in records.values()]),
        "fit": np.array(fits),
        "fit_columns": np.array([field.name for field in fields(CurveFit)]),
    }
    for index, record in enumerate(records.values()):
        arrays[f"x{index}"] = record.x.half().numpy()
        arrays[f"y{index}"] = record.y.half().numpy()
    return arrays


def shape_metrics(records: Mapping[str, NormRecord]) -> dict[str, float]:
    """Return numbers that summarize the layers, in the order in which they are called.

    "gain_early" and "gain_deep" are means of ``CurveFit.gain`` over the first and the last third of
    the layers, and "gain_difference" is their difference: above 0 where deep layers are the more
    S-shaped ones. "linear_share" is the mean over all layers in percent. For layers with α,
    "alpha_correlation" is the rank correlation (Spearman) of α with 1/std of the inputs.
    """
    fits = [fit_curve(record.x, record.y) for record in records.values()]
    third = max(1, len(fits) // 3)
    early = sum(fit.gain for fit in fits[:third]) / third
    deep = sum(fit.gain for fit in fits[-third:]) / third
    metrics = {
        "gain_early": early,
        "gain_deep": deep,
        "gain_difference": deep - early,
        "linear_share": 100 * sum(fit.linear_share for fit in fits) / len(fits),
    }
    pairs = [(r.alpha, 1 / r.input_std) for r in records.values() if r.alpha and r.input_std]
    if len(pairs) > 2:
        metrics["alpha_correlation"] = _rank_correlation(torch.tensor(pairs, dtype=torch.float64))
    return metrics


def _rank_correlation(pairs: Tensor) -> float:
    """Return Spearman's correlation of the two columns; equal values share a rank."""
    ranks = torch.stack([_ranks(column) for column in pairs.T])
    return torch.nan_to_num(torch.corrcoef(ranks)[0, 1]).item()


def _ranks(values: Tensor) -> Tensor:
    below = (values[None] < values[:, None]).sum(dim=1)
    equal = (values[None] == values[:, None]).sum(dim=1)
    return below + (equal - 1) / 2
