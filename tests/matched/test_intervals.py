"""Confidence intervals of means and shares, against scipy, and the seeds that would decide."""

import statistics

import pytest
from scipy import stats

from matched.report import intervals


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101, 999])
def test_t_quantile_equals_scipy(freedom):
    assert intervals.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (6, 6), (2, 5), (1, 40)])
def test_share_interval_equals_clopper_pearson(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
    assert intervals.share_interval(hits, count) == pytest.approx(tuple(expected), abs=1e-12)


def test_mean_interval_equals_scipy():
    values = [0.3, 1.2, 0.7, -0.1]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert intervals.mean_interval(values) == pytest.approx(tuple(expected))


def test_seeds_to_decide_is_the_smallest_number():
    values = [0.0, 1.0, 0.5]
    needed = intervals.seeds_to_decide(values, 0.2)
    mean, std = statistics.fmean(values), statistics.stdev(values)

    def low(count):
        return mean - stats.t.ppf(0.975, count - 1) * std / count**0.5

    assert needed is not None and low(needed) > 0.2 >= low(needed - 1)


def test_seeds_to_decide_has_a_limit():
    assert intervals.seeds_to_decide([-1.0, 1.0], 0.0) is None


def test_seeds_to_decide_a_share():
    assert intervals.seeds_to_decide_share(1, 1, 0.5) == 6  # 6 of 6 are above one half, not 5 of 5
    assert intervals.seeds_to_decide_share(1, 2, 0.5) is None
