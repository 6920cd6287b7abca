"""Order of an epoch: permutations drawn as a whole, and permutations computed by position."""

import numpy as np
import pytest
import torch

from matched.training import order
from matched.training.order import EpochOrder, FeistelPermutation
from matched.training.seeding import generator

LARGE = 48_828_125
"""Samples of 4,096 tokens in 200 billion tokens."""


def whole(size, *address):
    return FeistelPermutation(size, *address)(np.arange(size, dtype=np.uint64)).astype(np.int64)


@pytest.mark.parametrize("size", [4, 5, 16, 17, 1000, 1024, 1025, 65_537])
def test_feistel_permutation_is_a_permutation(size):
    assert np.array_equal(np.sort(whole(size, 0)), np.arange(size))


@pytest.mark.parametrize(
    ("size", "images"),
    [
        (5, [0, 2, 4, 3, 1]),
        (8, [0, 2, 6, 3, 1, 5, 7, 4]),
        (9, [8, 5, 2, 6, 3, 7, 4, 1, 0]),
        (15, [9, 5, 2, 6, 11, 7, 12, 1, 13, 10, 14, 3, 4, 0, 8]),
    ],
)
def test_feistel_permutation_is_stable(size, images):
    """Computed by a second implementation in Python's integers, at the edges of powers of two."""
    assert whole(size, 3).tolist() == images


def test_feistel_permutation_depends_on_every_part_of_its_address():
    permutations = [whole(1000, *address) for address in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (permutations[one] == permutations[other]).sum() < 10
    assert np.array_equal(permutations[0], whole(1000, 0, 0))


def test_feistel_permutation_moves_positions_uniformly():
    """Chi-squared of (position, image) in 8 × 8 cells; the 99.9 % quantile for 49 degrees is 85."""
    size, draws = 1000, 20
    counts = np.zeros((8, 8))
    for draw in range(draws):
        images = whole(size, draw)
        np.add.at(counts, (np.arange(size) * 8 // size, images * 8 // size), 1)
    expected = size * draws / 64
    assert ((counts - expected) ** 2 / expected).sum() < 85


def test_feistel_permutation_has_no_correlation_of_neighbours():
    images = whole(100_000, 7).astype(float)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(images, np.arange(len(images)))[0, 1]) < 0.02


def test_feistel_permutations_of_a_small_set_are_equally_frequent():
    """Images of position 0 over 2,000 seeds; the 99.9 % quantile for 9 degrees is 28."""
    zero = np.zeros(1, dtype=np.uint64)
    counts = np.bincount([int(FeistelPermutation(10, s)(zero)[0]) for s in range(2000)])
    assert ((counts - 200) ** 2 / 200).sum() < 28


def test_epoch_order_of_a_small_set_is_torch_randperm():
    expected = torch.randperm(1000, generator=generator(3, "order", 2)).tolist()
    assert EpochOrder(3, 2, 1000).part(0, 1000) == expected
    assert EpochOrder(3, 2, 1000).part(990, 10) == expected[990:]


def test_epoch_order_switches_above_the_largest_drawn_size(monkeypatch):
    monkeypatch.setattr(order, "LARGEST_DRAWN", 100)
    assert EpochOrder(0, 0, 100).drawn is not None
    large = EpochOrder(0, 0, 101)
    assert large.drawn is None
    assert sorted(large.part(0, 101)) == list(range(101))
    assert large.part(40, 7) == large.part(0, 101)[40:47]
    assert large.part(0, 101) != EpochOrder(0, 1, 101).part(0, 101)


def test_epoch_order_of_200_billion_tokens_is_stable():
    """The order is part of the meaning of a seed: these numbers must not change."""
    part = EpochOrder(0, 0, LARGE).part(LARGE - 3, 3)
    assert part == [20_043_855, 35_686_352, 46_579_885]
    assert all(0 <= index < LARGE for index in EpochOrder(1, 5, LARGE).part(0, 10_000))
