"""Claims of equality with official code: a measured number, its bound, and the verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the documentation, computed.

    Attributes:
        text: the claim.
        bound: the largest allowed value; 0 means bit-identical, or the same counts and names.
        measured: the value.
        note: what else a reader wants to know, such as the numbers that are equal.
    """

    text: str
    bound: float
    measured: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def equal(text: str, ours: object, theirs: object, note: str = "") -> Claim:
    """Return the claim that two values are equal."""
    return Claim(text=text, bound=0, measured=float(ours != theirs), note=note or str(theirs))


def largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return the largest absolute difference of pairs of tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max((a.detach().double() - b.detach().double()).abs().max().item() for a, b in pairs)


def relative_gradient_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Return the largest difference of gradients, relative to each tensor's largest gradient."""
    differences = [0.0]
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = expected[name].grad
        assert (parameter.grad is None) == (other is None), name
        if parameter.grad is not None and other is not None:
            scale = other.abs().max().item() or 1.0
            differences.append(largest_difference([parameter.grad], [other]) / scale)
    return max(differences)


def shake(model: nn.Module, seed: int = 0) -> None:
    """Add noise to every parameter, so that none is zero, one, or equal to another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def use_checkout(checkout: Path) -> None:
    """Let this process import the modules of a checkout."""
    sys.path.insert(0, str(checkout))
