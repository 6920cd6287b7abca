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
        need: name under which the row's runs need the runs that are shown; empty for the row's own.
    """

    title: str
    recipe: str
    row: str
    arms: tuple[str, ...] = ()
    need: str = ""


@dataclass(frozen=True, kw_only=True)
class _RunsFigure:
    """A figure with a panel for each source."""

    caption: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True)
class _LayersFigure:
    """A figure of some layers of one network.

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
class _FigureWithoutRuns:
    caption: str

    @property
    def sources(self) -> tuple[Source, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class LossCurves(_RunsFigure):
    """Training loss against the step, one panel per source, with all of its arms."""


@dataclass(frozen=True, kw_only=True)
class NormShapes(_RunsFigure):
    """Outputs of norm layers against their inputs, before the affine part.

    Attributes:
        layers: panels of each source, spread evenly from the first to the last layer.
    """

    layers: int = 4


@dataclass(frozen=True, kw_only=True)
class TokensAndChannels(_LayersFigure):
    """Outputs of norm layers against inputs, coloured by token and by channel."""


@dataclass(frozen=True, kw_only=True)
class AlphaAgainstStd(_RunsFigure):
    """α of each DyT layer against 1/std of its inputs, at the end of training."""


@dataclass(frozen=True, kw_only=True)
class AlphaDuringTraining(_LayersFigure):
    """α and 1/std of the inputs of some DyT layers after each epoch."""

    depths: tuple[float, ...] = (0.25, 0.75)


@dataclass(frozen=True, kw_only=True)
class TanhCurves(_FigureWithoutRuns):
    """tanh(αx) for several α."""

    alphas: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BlockDiagram(_FigureWithoutRuns):
    """A Transformer block with a norm layer, and with DyT instead."""


@dataclass(frozen=True, kw_only=True)
class BestAlpha0(_FigureWithoutRuns):
    """The best α0 against the width of the model, as the paper prints it in a table.

    Attributes:
        series: label → (table, row) in paper.toml, whose arms are widths.
        metric: key of α0 in the cells.
    """

    series: Mapping[str, tuple[str, str]]
    metric: str = "alpha0"


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
