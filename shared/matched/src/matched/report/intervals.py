"""Confidence intervals of 95 %: of a mean (t) and of a share (Clopper-Pearson), without scipy."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

LEVEL = 0.95
MAX_SEEDS = 1000
"""Most seeds that are computed for a verdict; beyond it no number is given."""

Interval = tuple[float, float]


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the t interval of the mean of two or more values."""
    return _interval_of(statistics.fmean(values), statistics.stdev(values), len(values))


def _interval_of(mean: float, std: float, count: int) -> Interval:
    half = t_quantile(count - 1) * std / math.sqrt(count)
    return mean - half, mean + half


def seeds_to_decide(values: Sequence[float], threshold: float) -> int | None:
    """Return how many seeds give an interval without ``threshold``, if mean and spread stay.

    None if ``MAX_SEEDS`` do not.
    """
    mean, std = statistics.fmean(values), statistics.stdev(values)

    def decided(count: int) -> bool:
        low, high = _interval_of(mean, std, count)
        return not low <= threshold <= high

    return _smallest(decided, len(values))


def share_interval(hits: int, count: int) -> Interval:
    """Return the exact (Clopper-Pearson) interval of a share of ``hits`` among ``count``."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _binomial_cdf(hits - 1, count, p), tail)
    high = 1.0 if hits == count else _solve(lambda p: -_binomial_cdf(hits, count, p), -tail)
    return low, high


def seeds_to_decide_share(hits: int, count: int, threshold: float) -> int | None:
    """Return how many seeds decide about a share, if it stays; None if ``MAX_SEEDS`` do not."""

    def decided(total: int) -> bool:
        low, high = share_interval(round(hits / count * total), total)
        return not low <= threshold <= high

    return _smallest(decided, count)


def _smallest(decided: Callable[[int], bool], start: int) -> int | None:
    """Return the smallest count from ``start`` on that decides, by bisection.

    More seeds do not undo a decision about a mean. For a share, whose hits are rounded, they can,
    and the count may be a few seeds too large.
    """
    counts = range(start, MAX_SEEDS + 1)
    index = bisect_left(counts, True, key=decided)
    return counts[index] if index < len(counts) else None


def _binomial_cdf(hits: int, count: int, p: float) -> float:
    """Return the distribution function of a binomial with 0 < p < 1."""
    none = count * math.log1p(-p)
    odds = math.log(p) - math.log1p(-p)
    logs = _log_combinations(count)[: hits + 1]
    return math.fsum(math.exp(log + k * odds + none) for k, log in enumerate(logs))


@cache
def _log_combinations(count: int) -> tuple[float, ...]:
    """Return log C(count, k) for k = 0 … count; whole numbers of hundreds of digits are slow."""
    total = math.lgamma(count + 1)
    return tuple(total - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1))


@cache
def t_quantile(freedom: int, p: float = (1 + LEVEL) / 2) -> float:
    """Return the quantile of Student's t for whole degrees of freedom, and p above one half."""
    high = 1.0
    while t_cdf(high, freedom) < p:
        high *= 2
    return high * _solve(lambda share: t_cdf(share * high, freedom), p)


def t_cdf(t: float, freedom: int) -> float:
    """Return the distribution function of Student's t for t >= 0.

    The finite sums for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    # Terms 1, (1/2)cos², (1·3)/(2·4)cos⁴, … for even degrees; cos, (2/3)cos³, … for odd ones.
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    two_sided = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + two_sided) / 2


def _solve(function: Callable[[float], float], target: float) -> float:
    """Return where an increasing function on [0, 1] has the value ``target``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return (low + high) / 2
