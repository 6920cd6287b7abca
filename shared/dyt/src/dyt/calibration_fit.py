"""Fit of α, s, γ and β of a DyT layer to the outputs of the norm layer that it replaces.

The fit minimizes the weighted squared difference of the two outputs. Given α and s, the best γ and
β are a linear regression for each channel; α and s themselves are found by line searches. All sums
pass through `reduce`, so several processes can fit one layer to the data of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dyt.backends.reference import squashed

Reduce = Callable[[Tensor], Tensor]
"""Function that sums a tensor over processes."""

Affine = Literal["none", "scale", "weight", "both"]

SATURATED = 2.0
"""|αx + s| above this counts as saturated: the slope of tanh is 0.07 there."""
HEADROOM = 1 / 8
"""α·rms of a layer with one γ: its inputs can grow eightfold before α·rms is 1."""
SEARCH_VALUES = 2**17  # values of the inputs that the line searches evaluate
PRIOR_POSITIONS = 4  # weight of the common scale in the regression of one channel's γ
OUTLIER_FACTOR = 4.0  # squared error of an outlying position, relative to the median position
OUTLIER_FLOOR = 0.25  # relative squared error below which no position is an outlier
OUTLIER_SHARE = 0.25  # positions are outliers only if they are few
WORST_POSITIONS = 3


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs of one norm layer, and the outputs to reproduce, in float32.

    Attributes:
        x, target: (N, C), one row for each position.
        weights: (N,), the weight of each row.
        positions: (N,), the index of each row within its input, or None if lengths differ.
        length: the number of positions of an input; 1 if `positions` is None.
        user_weights: True if the caller chose the weights, so outliers get none.
        emphasized: positions that were outliers in an earlier layer and keep their emphasis.
    """

    x: Tensor
    target: Tensor
    weights: Tensor
    positions: Tensor | None
    length: int
    user_weights: bool = False
    emphasized: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Form:
    """The parameters to fit.

    Attributes:
        squash: the bounded function.
        alpha, shift: True if α, and s, are fitted.
        affine: "none"; "scale" for one γ of all channels, with α by `HEADROOM`; "weight" (γ) or
            "both" (γ and β) for each channel.
        old_weight: (C,), γ of the norm layer, or None; γ of a channel with little data follows it.
        alpha0: the value of α where the data does not determine it, as for inputs of zeros.
    """

    squash: str
    alpha: bool
    shift: bool
    affine: Affine
    old_weight: Tensor | None
    alpha0: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fitted parameters of one layer, and the quality of the fit.

    Attributes:
        alpha: α; None if the layer has none.
        shift: s; None if the layer has none.
        weight: γ (C,); None if it is not fitted.
        bias: β (C,); None if it is not fitted.
        input_rms: the root mean square of the layer's inputs.
        saturated: the share of inputs with |αx + s| > 2.
        error: the root mean square of the difference of the outputs, relative to that of the
            norm layer's outputs.
        worst_positions: (index, error) of the positions with the largest error, largest first;
            empty if the length of the inputs is not fixed.
        emphasized: the indices of outlying positions that were weighted like all others together.
        scale: γ, if one value was fitted for all channels.
    """

    alpha: float | None
    shift: float | None
    weight: Tensor | None
    bias: Tensor | None
    input_rms: float
    saturated: float
    error: float
    worst_positions: tuple[tuple[int, float], ...] = ()
    emphasized: tuple[int, ...] = ()
    scale: float | None = None

    def output(self, x: Tensor, squash: str) -> Tensor:
        """Return the outputs (N, C) of the fitted layer in float32."""
        y = _squashed(x, self.alpha, self.shift, squash)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


def fit_layer(samples: Samples, form: Form, reduce: Reduce) -> Fit:
    """Fit a layer; with γ and β, once more with outlying positions weighted like all the others.

    A class token is one position of many, and the network's output depends on it alone: in a plain
    least-squares fit it has no say. With α alone such a position, often close to zero before
    training, would saturate all the others.
    """
    fit = _fit_once(samples, form, reduce)
    errors = _position_errors(samples, fit, form, reduce)
    outliers: list[int] = []
    if errors is not None and not samples.user_weights and form.affine in ("weight", "both"):
        own = _outliers(errors)
        outliers = sorted({*samples.emphasized, *own})
        if len(outliers) > OUTLIER_SHARE * samples.length:  # too many to be outliers
            outliers = sorted(own)
    if outliers:
        emphasis = torch.ones(samples.length, device=samples.x.device)
        emphasis[outliers] = (samples.length - len(outliers)) / len(outliers)
        weights = samples.weights * emphasis[samples.positions]
        emphasized = replace(samples, weights=weights)
        fit = _fit_once(emphasized, form, reduce)
        errors = _position_errors(samples, fit, form, reduce)
        fit = replace(fit, emphasized=tuple(outliers))
    if errors is None:
        return fit
    worst = errors.sqrt().topk(min(WORST_POSITIONS, len(errors)))
    pairs = zip(worst.indices.tolist(), worst.values.tolist(), strict=True)
    return replace(fit, worst_positions=tuple(pairs))


def _fit_once(samples: Samples, form: Form, reduce: Reduce) -> Fit:
    channels = samples.x.shape[1]
    weighted = samples.weights[:, None]
    squares = (weighted * samples.x.square()).sum()
    total, squares = reduce(torch.stack([samples.weights.sum(), squares]).double()).tolist()
    input_rms = math.sqrt(squares / (total * channels))
    alpha, shift = _search(_subset(samples), form, input_rms, reduce)
    u = samples.x if alpha is None else samples.x * alpha
    t = _squashed(samples.x, alpha, shift, form.squash)
    gamma, beta = _regression(t, samples, form, reduce)
    fit = Fit(
        alpha=alpha,
        shift=shift,
        weight=gamma,
        bias=beta,
        input_rms=input_rms,
        saturated=0.0,
        error=0.0,
        scale=gamma[0].item() if gamma is not None and form.affine == "scale" else None,
    )
    difference = fit.output(samples.x, form.squash) - samples.target
    saturated = ((u + (shift or 0.0)).abs() > SATURATED).float()
    sums = [
        (weighted * values).sum()
        for values in (difference.square(), samples.target.square(), saturated)
    ]
    squared_error, scale, count = reduce(torch.stack(sums).double()).tolist()
    error = math.sqrt(squared_error / scale) if scale else float(squared_error > 0)
    return replace(fit, saturated=count / (total * channels), error=error)


def _squashed(x: Tensor, alpha: float | None, shift: float | None, squash: str) -> Tensor:
    u = x if alpha is None else x * alpha
    return squashed(u if shift is None else u + shift, squash)


def _subset(samples: Samples) -> Samples:
    """Return random rows, with at most SEARCH_VALUES values but at least 64 rows; always the same.

    Every n-th row could be the same position of every input.
    """
    rows, channels = samples.x.shape
    count = max(64, SEARCH_VALUES // channels)
    if rows <= count:
        return samples
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    chosen = order[:count].to(samples.x.device)
    return replace(
        samples,
        x=samples.x[chosen],
        target=samples.target[chosen],
        weights=samples.weights[chosen],
        positions=None,
    )


def _search(
    samples: Samples, form: Form, input_rms: float, reduce: Reduce
) -> tuple[float | None, float | None]:
    """Return the best α and s; each is None if the layer has none."""

    def loss(alpha: float | None, shift: float | None) -> float:
        t = _squashed(samples.x, alpha, shift, form.squash)
        gamma, beta = _regression(t, samples, form, reduce)
        y = t if gamma is None else t * gamma
        y = y if beta is None else y + beta
        squares = (samples.weights[:, None] * (y - samples.target).square()).sum()
        return reduce(squares.double()).item()

    alpha = form.alpha0 if form.alpha else None
    shift = 0.0 if form.shift else None
    if input_rms == 0:
        return alpha, shift
    if form.alpha and form.affine == "scale":
        alpha = HEADROOM / input_rms
    elif form.alpha:
        # α·rms from 0.03 to 512: one outlying position can exceed all others a hundredfold.
        grid = [2.0**power / input_rms for power in range(-5, 10)]
        best = min(grid, key=lambda value: loss(value, shift))
        alpha = _search_alpha(best, shift, loss)
    if form.shift:
        shift = _golden_section(lambda value: loss(alpha, value), -1.0, 1.0)
        if alpha is not None and form.affine != "scale":
            alpha = _search_alpha(alpha, shift, loss)
    return alpha, shift


def _search_alpha(
    start: float, shift: float | None, loss: Callable[[float | None, float | None], float]
) -> float:
    """Return the α with the smallest loss between half and twice a starting value."""
    center = math.log(start)
    best = _golden_section(
        lambda value: loss(math.exp(value), shift), center - math.log(2), center + math.log(2)
    )
    return math.exp(best)


def _golden_section(
    function: Callable[[float], float], low: float, high: float, steps: int = 14
) -> float:
    """Return the minimum of a function between two bounds, to 1/800 of their distance."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    f_left, f_right = function(left), function(right)
    for _ in range(steps):
        if f_left <= f_right:
            high, right, f_right = right, left, f_left
            left = high - ratio * (high - low)
            f_left = function(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + ratio * (high - low)
            f_right = function(right)
    return (low + high) / 2


def _regression(
    t: Tensor, samples: Samples, form: Form, reduce: Reduce
) -> tuple[Tensor | None, Tensor | None]:
    """Return γ and β that map t (N, C) to the target, by weighted least squares for each channel.

    With affine="scale", γ is one number that gives the output the root mean square of the target.

    Otherwise the γ of each channel is drawn towards the norm layer's γ times one scale common to
    all channels, as if PRIOR_POSITIONS further positions agreed with it. This determines γ if there
    are fewer positions than two, or if a channel does not vary.
    """
    if form.affine == "none":
        return None, None
    w = samples.weights[:, None]
    y = samples.target
    if form.affine == "scale":
        squares = torch.stack([(w * y * y).sum(), (w * t * t).sum()])
        of_target, of_t = reduce(squares.double())
        scale = (of_target / of_t.clamp_min(1e-30)).sqrt().float()
        return torch.where(of_t > 0, scale, 1.0).expand(t.shape[1]), None
    products = (w.expand_as(t), w * t, w * y, w * t * t, w * t * y)
    rows = torch.stack([product.sum(0) for product in products])
    total, sum_t, sum_y, tt, ty = reduce(rows.double())
    if form.affine == "both":
        tt = tt - sum_t * sum_t / total
        ty = ty - sum_t * sum_y / total
    old = torch.ones_like(tt) if form.old_weight is None else form.old_weight.double()
    scale = (old * ty).sum() / (old * old * tt).sum().clamp_min(1e-30)
    prior = (tt / total).mean().clamp_min(1e-12) * PRIOR_POSITIONS
    gamma = (ty + prior * scale * old) / (tt.clamp_min(0) + prior)
    beta = (sum_y - gamma * sum_t) / total if form.affine == "both" else None
    return gamma.float(), None if beta is None else beta.float()


def _position_errors(samples: Samples, fit: Fit, form: Form, reduce: Reduce) -> Tensor | None:
    """Return the relative squared error of each position (T,), or None without fixed positions."""
    if samples.positions is None or samples.length < 2:
        return None
    difference = fit.output(samples.x, form.squash) - samples.target
    sums = torch.zeros(2, samples.length, dtype=torch.float64, device=samples.x.device)
    for row, values in zip(sums, (difference, samples.target), strict=True):
        squares = samples.weights * values.square().sum(1)
        row.index_add_(0, samples.positions, squares.double())
    squared_error, scale = reduce(sums)
    return squared_error / scale.clamp_min(1e-30)


def _outliers(errors: Tensor) -> list[int]:
    """Return the indices of the few positions whose error is far above that of the median."""
    bound = max(OUTLIER_FACTOR * errors.median().item(), OUTLIER_FLOOR)
    indices = (errors > bound).nonzero().flatten().tolist()
    return indices if len(indices) <= OUTLIER_SHARE * len(errors) else []
