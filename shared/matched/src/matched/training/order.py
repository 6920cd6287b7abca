"""Order of an epoch: a seeded permutation of the samples, of which any part can be read alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from matched.training.seeding import derive_seed, generator

LARGEST_DRAWN = 1 << 22
"""Number of samples up to which a permutation is drawn as a whole; it takes 32 MiB.

Above it, each position is permuted by itself: tens of millions of samples take no memory.
"""
ROUNDS = 8
"""Of the Feistel network; even, so that both halves end where they started."""

Integers = npt.NDArray[np.uint64]


class EpochOrder:
    """The permutation of ``samples`` samples in an epoch, drawn from (seed, "order", epoch)."""

    def __init__(self, seed: int, epoch: int, samples: int) -> None:
        self.samples = samples
        self.drawn: torch.Tensor | None = None
        if samples <= LARGEST_DRAWN:
            source = generator(seed, "order", epoch)
            self.drawn = torch.randperm(samples, generator=source)
        else:
            self.permutation = FeistelPermutation(samples, seed, "order", epoch)

    def part(self, first: int, count: int) -> list[int]:
        """Return the samples at the positions from ``first`` to below ``first + count``."""
        assert 0 <= first <= first + count <= self.samples
        if self.drawn is not None:
            return self.drawn[first : first + count].tolist()
        positions = np.arange(first, first + count, dtype=np.uint64)
        return self.permutation(positions).tolist()


class FeistelPermutation:
    """Permutation of 0 … size - 1 that computes the image of each number by itself.

    A Feistel network permutes the numbers of as many bits as ``size - 1`` has; an image of ``size``
    or more is permuted again until it is smaller ("cycle walking", Black and Rogaway, "Ciphers with
    Arbitrary Finite Domains", CT-RSA 2002, section 3). Fewer than two rounds of the walk are needed
    on average. The round function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast
    Splittable Pseudorandom Number Generators", OOPSLA 2014).

    Args:
        size: at least 4.
        address: what the keys are derived from.
    """

    def __init__(self, size: int, *address: int | str) -> None:
        assert size >= 4, "each half has at least one bit"
        self.size = size
        bits = (size - 1).bit_length()
        self.high_bits, self.low_bits = bits // 2, bits - bits // 2
        self.keys = [np.uint64(derive_seed(*address, number)) for number in range(ROUNDS)]

    def __call__(self, numbers: Integers) -> Integers:
        """Return the images of ``numbers``, elementwise."""
        images = self._encrypt(numbers)
        while len(outside := np.flatnonzero(images >= self.size)):
            images[outside] = self._encrypt(images[outside])
        return images

    def _encrypt(self, numbers: Integers) -> Integers:
        high_bits, low_bits = self.high_bits, self.low_bits
        high = numbers >> np.uint64(low_bits)
        low = numbers & np.uint64((1 << low_bits) - 1)
        for key in self.keys:
            # The halves may differ by one bit; they change places, and so do their sizes.
            mixed = _mix(low + key) >> np.uint64(64 - high_bits)
            high, low = low, high ^ mixed
            high_bits, low_bits = low_bits, high_bits
        return (high << np.uint64(low_bits)) | low


def _mix(values: Integers) -> Integers:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
