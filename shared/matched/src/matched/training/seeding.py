"""All randomness as a function of the seed and of a place in the run, never of what came before.

Weights, the order of the data, the augmentation of a sample, the dropout and the mixup of a step
each draw from generators seeded for that purpose. A run therefore does not depend on the number
of loading processes or on where it was cut and resumed, and the arms of a pair, whose norm layers
may draw differently, see the same batches and drop the same paths.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derived(*place: int | str) -> int:
    """A 64-bit seed for a place such as (seed, "sample", epoch, index)."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest())


def reseed(*place: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators for a place."""
    value = derived(*place)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    # torch.manual_seed does this and looks at every other kind of device too, which takes 0.2 ms:
    # as long as the augmentation of a small image.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)


def generator(*place: int | str) -> torch.Generator:
    """A CPU generator of its own for a place."""
    return torch.Generator().manual_seed(derived(*place))
