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
class BestAlpha0(_RunsFigure):
    """The best α0 against the width of the model: what searches found, and what the paper prints.

    Each source is a row of searches, whose arms are widths.

    Attributes:
        printed: label → (table, row) in paper.toml.
        width: path of the width in the runs' configs.
        metric: key of α0 in the cells.
    """

    printed: Mapping[str, tuple[str, str]]
    width: str = "network.width"
    metric: str = "alpha0"


@dataclass(frozen=True, kw_only=True)
class ValuesTried(_RunsFigure):
    """The metric of every value that a row's search tried, one panel per source.

    Arms of the row with one run, such as the baseline, are horizontal lines.
    """


@dataclass(frozen=True, kw_only=True)
class PairsTried(_RunsFigure):
    """The metric of every pair of values that a search tried, as a map, one panel per source."""


Figure = (
    LossCurves
    | NormShapes
    | TokensAndChannels
    | AlphaAgainstStd
    | AlphaDuringTraining
    | TanhCurves
    | BlockDiagram
    | BestAlpha0
    | ValuesTried
    | PairsTried
)
