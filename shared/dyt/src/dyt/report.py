"""Tells what a conversion did, layer by layer, so that no norm layer changes or stays unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from dyt.norm import Norm


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One norm layer and what stands in its place.

    Fields:
        path: the module's path, such as "blocks.0.norm1".
        old, new: the names of the two layer classes; equal where the layer stays.
        alpha0: the initial α; None where the new layer has no α.
        shape: the normalized shape; None where the old layer did not tell.
        channel_axis: -1, or 1 as in NCHW.
        affine, bias: whether the layer has γ, and β.
        aliases: further paths of the same, shared module.
        replaced: False where the layer stays: under Norm.own(), and where it is of the kind that
            was asked for.
    """

    path: str
    old: str
    new: str
    alpha0: float | None
    shape: tuple[int, ...] | None
    channel_axis: int
    affine: bool
    bias: bool
    aliases: tuple[str, ...] = ()
    replaced: bool = True


@dataclass(frozen=True)
class Kept:
    """A layer that was left as it is, by its path and the name of its class."""

    path: str
    layer: str


@dataclass(frozen=True, kw_only=True)
class Report(Sequence[Replacement]):
    """Every replacement of one conversion, in the order of the network's modules.

    Fields:
        norm: the norm that was asked for.
        replacements: what was replaced, or would be by another norm: the same layers whichever
            norm was asked for. The report is a sequence of these.
        kept: norm layers that a `skip` pattern kept.
        left: norm-like layers that the conversion is not for, such as BatchNorm, or a norm with
            a gate of its own.
    """

    norm: Norm
    replacements: tuple[Replacement, ...]
    kept: tuple[Kept, ...] = ()
    left: tuple[Kept, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every layer in `replacements`; a shared layer has all of its paths here."""
        return tuple(path for r in self.replacements for path in (r.path, *r.aliases))

    @overload
    def __getitem__(self, index: int) -> Replacement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Replacement, ...]: ...
    def __getitem__(self, index: int | slice) -> Replacement | tuple[Replacement, ...]:
        return self.replacements[index]

    def __len__(self) -> int:
        return len(self.replacements)

    def __iter__(self) -> Iterator[Replacement]:
        return iter(self.replacements)

    def __str__(self) -> str:
        rows = [("path", "old", "new", "α0", "shape"), *map(_row, self.replacements)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        changed = sum(r.replaced for r in self)
        verb = "replaced" if changed == len(self) else f"found, {changed or 'none'} replaced"
        lines.append(f"{self.norm}: {len(self)} norm layers {verb}")
        if self.kept:
            lines.append(f"kept by skip: {count(self.kept)}")
        if self.left:
            lines.append(f"left alone: {count(self.left)}")
        return "\n".join(lines)


def count(layers: Sequence[Kept]) -> str:
    """The layers by class, as in "53 × BatchNorm2d, 1 × GroupNorm"."""
    classes = Counter(kept.layer for kept in layers)
    return ", ".join(f"{n} × {name}" for name, n in classes.most_common())


def _row(r: Replacement) -> tuple[str, ...]:
    shape = "any" if r.shape is None else ", ".join(map(str, r.shape))
    notes = [" (axis 1)"] if r.channel_axis == 1 else []
    if not r.affine:
        notes.append(" (no affine)")
    elif not r.bias:
        notes.append(" (no bias)")
    alpha0 = "-" if r.alpha0 is None else f"{r.alpha0:g}"
    path = " = ".join((r.path, *r.aliases))
    return (path, r.old, r.new, alpha0, shape + "".join(notes))
