"""`NormLayout`: width, axis and parameters of a norm class that no probe recognizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dyt.layers import check_axis
from dyt.norm_detection import NormSpec, check_replaceable

Also = Mapping[type[nn.Module], "NormLayout | None"]
"""Further classes to convert; None: width, axis and parameters are found by a probe."""


@dataclass(frozen=True, kw_only=True)
class NormLayout:
    """What `convert` needs to know of a norm class: `also={TheirNorm: NormLayout(weight="a_2")}`.

    Attributes:
        weight, bias: the names of the parameters γ and β; None where the class has none. A β that
            is a buffer is not learnable: leave it out, and the new layer has no β.
        channel_axis: -1, or 1 as in NCHW.
        width: the number of channels or the normalized shape, or the name of the attribute that has
            it; by default the size of γ. A class without γ and width becomes a DyT of any width.

    Raises:
        ValueError: β without γ, or an axis other than -1 and 1.
    """

    weight: str | None = None
    bias: str | None = None
    channel_axis: int = -1
    width: int | str | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_axis(self.channel_axis, None)
        if self.bias is not None and self.weight is None:
            raise ValueError(
                f"NormLayout has bias = {self.bias!r} without weight. DyT has β only with γ: name"
                " the weight too."
            )
        if isinstance(self.width, list):  # from JSON
            object.__setattr__(self, "width", tuple(self.width))


def check_also(also: Any) -> Also:
    """Return `also` as a mapping from class to layout.

    Raises:
        ValueError: a key is not a module class, or a value not a `NormLayout`.
    """
    if isinstance(also, Mapping):
        layouts = dict(also)
    else:
        layouts = dict.fromkeys((also,) if not isinstance(also, Iterable) else also)
    for kind, layout in layouts.items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"also = {kind!r} is not a module class, such as nn.BatchNorm2d.")
        if not (layout is None or isinstance(layout, NormLayout)):
            raise ValueError(
                f"also[{kind.__name__}] = {layout!r} is not a dyt.NormLayout, such as"
                ' NormLayout(weight="gamma", channel_axis=1).'
            )
    return layouts


def read_layout(module: nn.Module, layout: NormLayout) -> NormSpec:
    """Return the spec of a norm layer whose layout the user gives.

    Raises:
        ValueError: the module has not the named parameters, has others, or contains more than a
            norm.
    """
    check_replaceable(module)
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    names = [name for name in (layout.weight, layout.bias) if name is not None]
    for name in names:
        if name not in parameters:
            kind = "a buffer" if name in module._buffers else "no parameter"
            raise ValueError(
                f"its NormLayout names {name!r}, which is {kind}; its parameters are"
                f" {', '.join(parameters) or 'none'}"
            )
    if unnamed := [name for name in parameters if name not in names]:
        raise ValueError(f"its NormLayout does not name {', '.join(unnamed)}, which would be lost")
    weight = parameters[layout.weight] if layout.weight else None
    bias = parameters[layout.bias] if layout.bias else None
    shape = _width(module, layout, weight)
    check_axis(layout.channel_axis, shape)
    for name in names:
        if shape is not None and parameters[name].numel() != math.prod(shape):
            raise ValueError(
                f"its NormLayout has width {shape}, but {name!r} has shape"
                f" {tuple(parameters[name].shape)}"
            )
    return NormSpec(
        shape=shape, channel_axis=layout.channel_axis, weight=weight, bias=bias, kind=None
    )


def _width(
    module: nn.Module, layout: NormLayout, weight: nn.Parameter | None
) -> tuple[int, ...] | None:
    width: Any = layout.width
    if isinstance(width, str):
        if not hasattr(module, width):
            raise ValueError(f"its NormLayout names the attribute {width!r}, which it has not")
        width = getattr(module, width)
    if width is None and weight is not None:
        sizes = tuple(weight.shape)
        width = tuple(n for n in sizes if n != 1)  # (1, C, 1, 1) is the width C
        width = width if len(width) == 1 else sizes
    if width is None:
        return None
    sizes = tuple(width) if isinstance(width, (tuple, list)) else (width,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"its NormLayout gives the width {width!r}: not a number of channels")
    return sizes
