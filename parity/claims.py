"""Claims of equality with official code: a measured number, its bound, and the verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt import convert


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


def equal_architectures(
    name: str, ours: nn.Module, theirs: nn.Module, norms: int, part: str = "all parameters"
) -> Iterator[Claim]:
    """Yield the claims that two networks have the same keys and shapes, and so many norm layers.

    The norm layers of ``theirs`` are converted.
    """
    shapes = [{n: tuple(p.shape) for n, p in m.state_dict().items()} for m in (ours, theirs)]
    count = sum(p.numel() for p in theirs.parameters())
    yield equal(f"{name}: names and shapes of {part}", *shapes, note=f"{count:,}")
    yield equal(f"{name}: norm layers that `convert` finds", norms, len(convert(theirs)))


def largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return the largest absolute difference of pairs of tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max((a.detach().double() - b.detach().double()).abs().max().item() for a, b in pairs)


def gradient_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Return the largest absolute difference of the gradients of parameters of the same name."""
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    measured = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert measured.keys() == expected.keys()
    return largest_difference(measured.values(), (expected[name] for name in measured))


def relative_gradients(
    ours: nn.Module, theirs: nn.Module, names: Mapping[str, str] | None = None
) -> float:
    """Return the largest difference of gradients, relative to the largest of each tensor's.

    Args:
        names: their name of a parameter → ours, where they differ.
    """
    found = dict(ours.named_parameters())
    differences = []
    for name, parameter in theirs.named_parameters():
        a, b = found.pop((names or {}).get(name, name)).grad, parameter.grad
        assert a is not None and b is not None
        differences.append(largest_difference([a], [b]) / b.abs().max().item())
    assert not found
    return max(differences)


def train_side_by_side(
    pairs: Sequence[tuple[nn.Module, torch.optim.Optimizer]],
    loss_of: Callable[[nn.Module, int], Tensor],
    steps: int = 10,
) -> tuple[float, float]:
    """Train two networks; return the largest difference of their losses, and the last loss.

    Args:
        pairs: ours and theirs, with their optimizers; gradients are clipped to a norm of 1.
        loss_of: the loss of a network at a step.
    """
    differences = []
    for step in range(steps):
        losses = []
        for model, optimizer in pairs:
            loss = loss_of(model, step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        differences.append(abs(losses[0] - losses[1]))
    return max(differences), losses[-1]


def perturb(model: nn.Module, seed: int = 0, *, without: str | None = None) -> None:
    """Add noise to every trained parameter, so that none is zero, one, or equal to another.

    Args:
        without: part of the names of parameters that stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (without is None or without not in name):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def use_checkout(checkout: Path) -> None:
    """Let this process import the modules of a checkout."""
    sys.path.insert(0, str(checkout))
