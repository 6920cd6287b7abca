"""Figures of the papers drawn from our own runs: SVG, PNG and the data as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matched import planning, recipes
from matched.entries import make_entries
from matched.figure import (
    AlphaAgainstStd,
    AlphaDuringTraining,
    BestAlpha0,
    BlockDiagram,
    Figure,
    LossCurves,
    NormShapes,
    PairsTried,
    Source,
    TanhCurves,
    TokensAndChannels,
    ValuesTried,
)
from matched.planning import Plan, PlannedRun
from matched.report import figure_list
from matched.report.figure_list import DrawnFigure
from matched.report.figures import diagrams, norm_layers, searches, training
from matched.report.figures.canvas import Canvas, PanelRuns, settings
from matched.report.figures.searches import PanelEntries
from matched.site import Site


def draw_all(project: Path, site: Site, scales: Sequence[str], folder: Path) -> list[DrawnFigure]:
    """Draw every figure of the project at every scale, as far as its runs are finished.

    Raises:
        OSError: if the folder cannot be written.
    """
    drawers = [FigureDrawer(project, site, scale) for scale in scales]
    drawn = []
    for name, figure in figure_list.available(project).items():
        # A figure without runs is the same at every scale, and is there without results as well.
        without_runs = [FigureDrawer(project, site, "")]
        for drawer in drawers if figure.sources else without_runs:
            paths: Sequence[Path] = ()
            problem = ""
            try:
                paths = drawer.draw(name, folder)
            except ValueError as error:
                problem = str(error)
            drawn.append(
                DrawnFigure(
                    name=name,
                    scale=drawer.scale,
                    caption=figure.caption,
                    paths=tuple(paths),
                    problem=problem,
                )
            )
    return drawn


class FigureDrawer:
    """Draws figures from the runs of one scale; a recipe's plan is made once."""

    def __init__(self, project: Path, site: Site, scale: str) -> None:
        self.project, self.site, self.scale = project, site, scale
        self._plans: dict[str, Plan] = {}

    def draw(self, name: str, folder: Path) -> list[Path]:
        """Write ``name``.<scale>.svg, .png and .csv to ``folder``.

        Raises:
            ValueError: if runs are missing, with the commands that compute them, if the recipe has
                no such scale, or if a run's data is damaged.
            OSError: if the folder cannot be written.
        """
        figure = figure_list.find(self.project, name)
        panels = [self._runs(name, source) for source in figure.sources]
        canvas = Canvas(f"{name}.{self.scale}" if panels else name)
        with settings():
            if isinstance(figure, (BestAlpha0, ValuesTried, PairsTried)):
                self._draw_searches(canvas, figure)
            else:
                self._draw(canvas, figure, panels)
            return canvas.save(folder)

    def _draw(self, canvas: Canvas, figure: Figure, panels: Sequence[PanelRuns]) -> None:
        if isinstance(figure, LossCurves):
            training.draw_losses(canvas, panels)
        elif isinstance(figure, NormShapes):
            norm_layers.draw_shapes(canvas, panels, figure.layers)
        elif isinstance(figure, TokensAndChannels):
            norm_layers.draw_tokens_and_channels(canvas, panels[0], figure.depths)
        elif isinstance(figure, AlphaAgainstStd):
            norm_layers.draw_alpha_against_std(canvas, panels)
        elif isinstance(figure, AlphaDuringTraining):
            training.draw_alpha(canvas, panels[0], figure.depths)
        elif isinstance(figure, TanhCurves):
            diagrams.draw_tanh(canvas, figure.alphas)
        else:
            diagrams.draw_block(canvas)

    def _draw_searches(self, canvas: Canvas, figure: BestAlpha0 | ValuesTried | PairsTried) -> None:
        panels = [self._entries(source) for source in figure.sources]
        if isinstance(figure, BestAlpha0):
            printed = _printed_alpha0(self.project, figure)
            searches.draw_best_alpha0(canvas, panels, printed, figure.width, self.scale)
        elif isinstance(figure, ValuesTried):
            searches.draw_values(canvas, panels)
        else:
            searches.draw_pairs(canvas, panels)

    def _entries(self, source: Source) -> PanelEntries:
        """Return the entries of a source's row with runs, by the metric of its searches."""
        found = [
            entry
            for of_metric in make_entries(self._plan(source.recipe), ())
            for entry in of_metric
            if entry.row == source.row and entry.runs and entry.arm in (source.arms or (entry.arm,))
        ]
        deciding = {entry.search.metric.key for entry in found if entry.search}
        return PanelEntries(
            title=source.title,
            entries=[entry for entry in found if entry.metric.key in deciding],
        )

    def _runs(self, name: str, source: Source) -> PanelRuns:
        """Return the first seed's runs of a source, by arm, or by arm and trial of a search."""
        plan = self._plan(source.recipe)
        runs: dict[str, PlannedRun] = {}
        for planned in plan.runs:
            for cell in planned.cells:
                wanted = not source.arms or cell.arm in source.arms
                if cell.row == source.row and wanted:
                    runs.setdefault(cell.column, planned)
        missing = [p.title for p in runs.values() if not p.status.state.finished]
        if missing or not runs:
            arguments = plan.recipe.arguments(plan.scale)
            raise ValueError(
                f"{name} at {self.scale} scale needs runs that are not finished: "
                f"{', '.join(missing) or source.row}; run `matched submit {arguments} --wait`"
            )
        return PanelRuns(title=source.title, runs=runs)

    def _plan(self, name: str) -> Plan:
        if name not in self._plans:
            path = str(self.project / name) if name.endswith(".py") else name
            recipe = recipes.load(path)
            self._plans[name] = planning.make_plan(recipe, recipe.scale(self.scale), self.site)
        return self._plans[name]


def _printed_alpha0(project: Path, figure: BestAlpha0) -> dict[str, dict[float, float]]:
    """Return label → width → the α0 that the paper prints."""
    numbers = recipes.paper_numbers(project)
    series = {}
    for label, (table, row) in figure.printed.items():
        paper, _, key = table.partition(".")
        cells = numbers[paper][key]["rows"][row]
        widths = [arm for arm in cells if re.fullmatch(r"\d+", arm)]
        series[label] = {float(width): float(cells[width][figure.metric]) for width in widths}
    return series
