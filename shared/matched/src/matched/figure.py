"""Figures of a paper as data; recipes/<paper>/figures.py lists them by number.

``matched.report.figures`` draws them from the results of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """The runs that a panel shows: one row of a recipe.

    Attributes:
        title: of the panel.
        recipe: a table's name, or the path of a recipe file from the project's folder.
        arms: shown; empty for all.
    """

    title: str
    recipe: str
    row: str
    arms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Training loss against the step, one panel per source, with all of its arms."""

    caption: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True)
class NormShapes:
    """Outputs of norm layers against their inputs, before the affine part.

    Attributes:
        layers: panels of each source, spread evenly from the first to the last layer.
    """

    caption: str
    sources: tuple[Source, ...]
    layers: int = 4


@dataclass(frozen=True, kw_only=True)
class TokensAndChannels:
    """Outputs of norm layers against inputs, coloured by token and by channel.

    Attributes:
        depths: the layers, as parts of the depth: 0 is the first layer, 1 the last.
    """

    caption: str
    source: Source
    depths: tuple[float, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)


@dataclass(frozen=True, kw_only=True)
class AlphaAgainstStd:
    """α of each DyT layer against 1/std of its inputs, at the end of training."""

    caption: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True)
class AlphaDuringTraining:
    """α and 1/std of the inputs of some DyT layers after each epoch.

    Attributes:
        depths: the layers, as parts of the depth.
    """

    caption: str
    source: Source
    depths: tuple[float, ...] = (0.25, 0.75)

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)


@dataclass(frozen=True, kw_only=True)
class TanhCurves:
    """tanh(αx) for several α."""

    caption: str
    alphas: tuple[float, ...]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BlockDiagram:
    """A Transformer block with a norm layer, and with DyT instead."""

    caption: str
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BestAlpha0:
    """The best α0 against the width of the model, as the paper prints it in a table.

    Attributes:
        series: label → (table, row) in paper.toml, whose arms are widths.
        metric: key of α0 in the cells.
    """

    caption: str
    series: Mapping[str, tuple[str, str]]
    metric: str = "alpha0"
    sources: tuple[Source, ...] = ()


Figure = (
    LossCurves
    | NormShapes
    | TokensAndChannels
    | AlphaAgainstStd
    | AlphaDuringTraining
    | TanhCurves
    | BlockDiagram
    | BestAlpha0
)
