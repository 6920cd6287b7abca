"""Report of a conversion: every norm layer, replaced or kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

from dyt.norm_config import Norm

if TYPE_CHECKING:
    from dyt.calibration_fit import Fit
    from dyt.norm_layout import NormLayout


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One norm layer and its replacement.

    Attributes:
        path: the module's path, such as "blocks.0.norm1".
        old: the name of the old layer's class.
        new: the name of the new layer's class; equal to ``old`` if the layer is kept.
        alpha0: the initial α; None if the new layer has no α.
        shape: the normalized shape; None if the old layer has no record of it.
        channel_axis: -1, or 1 as in NCHW.
        affine: True if the layer has γ.
        bias: True if the layer has β.
        aliases: further paths of the same, shared module.
        replaced: False if the layer is kept: under Norm.own(), or because it already is of the
            requested kind.
        fit: the result of calibration; None without calibration, and for a layer that the data
            never reached.
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
    fit: Fit | None = None


@dataclass(frozen=True)
class Kept:
    """An unchanged layer: its path and the name of its class."""

    path: str
    layer: str


@dataclass(frozen=True, kw_only=True)
class Report(Sequence[Replacement]):
    """Every replacement of one conversion, in the order of the network's modules.

    Attributes:
        norm: the requested norm.
        replacements: the layers that were replaced or that another norm would replace; the same
            layers for every requested norm. The report is a sequence of these.
        kept: norm layers that a `skip` pattern kept.
        left: norm-like layers that `convert` does not handle by default, such as BatchNorm, or a
            norm with a gate.
        also: the names of the further classes that were converted, with their `NormLayout` or None.
        skip: the patterns of paths that were left alone.
    """

    norm: Norm
    replacements: tuple[Replacement, ...]
    kept: tuple[Kept, ...] = ()
    left: tuple[Kept, ...] = ()
    also: Mapping[str, NormLayout | None] = field(default_factory=dict)
    skip: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat dict for each replacement, as for `pandas.DataFrame(report.rows())`."""
        rows = []
        for replacement in self:
            row = {f.name: getattr(replacement, f.name) for f in fields(replacement)}
            fit = row.pop("fit")
            if fit is not None:
                names = ("shift", "scale", "input_rms", "saturated", "error", "worst_positions")
                row |= {name: getattr(fit, name) for name in names}
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain values, without the fitted γ and β."""
        return {
            "norm": asdict(self.norm),
            "replacements": self.rows(),
            "kept": [asdict(kept) for kept in self.kept],
            "left": [asdict(kept) for kept in self.left],
            "also": {name: layout and asdict(layout) for name, layout in self.also.items()},
            "skip": list(self.skip),
        }

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all layers in `replacements`, including every path of a shared layer."""
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
        header = ("path", "old", "new", "α0", "shape")
        rows = [header, *map(_row, self.replacements)]
        if any(r.fit is not None for r in self):
            columns = ("γ", "input rms", "|αx| > 2", "error", "worst positions")
            fits = [columns, *(_fit_row(r.fit) for r in self)]
            rows = [(*row, *fit) for row, fit in zip(rows, fits, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        changed = sum(r.replaced for r in self)
        verb = "replaced" if changed == len(self) else f"found, {changed or 'none'} replaced"
        lines.append(f"{self.norm}: {len(self)} norm layers {verb}")
        if self.kept:
            lines.append(f"kept by skip: {count_by_class(self.kept)}")
        if self.left:
            lines.append(f"left alone: {count_by_class(self.left)}")
        return "\n".join(lines)


def count_by_class(layers: Sequence[Kept]) -> str:
    """Return the number of layers of each class, as in "53 × BatchNorm2d, 1 × GroupNorm"."""
    classes = Counter(kept.layer for kept in layers)
    return ", ".join(f"{n} × {name}" for name, n in classes.most_common())


def _fit_row(fit: Fit | None) -> tuple[str, ...]:
    if fit is None:
        return ("", "not called", "", "", "")
    gamma = "1" if fit.weight is None else "fitted" if fit.scale is None else f"{fit.scale:.3g}"
    worst = ", ".join(f"{index} ({error:.2f})" for index, error in fit.worst_positions)
    return (gamma, f"{fit.input_rms:.3g}", f"{fit.saturated:.1%}", f"{fit.error:.3f}", worst)


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
