"""Figures of the papers drawn from our own runs: SVG, PNG and the data as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matched import planning, recipes
from matched.figure import (
    AlphaAgainstStd,
    AlphaDuringTraining,
    BestAlpha0,
    BlockDiagram,
    Figure,
    LossCurves,
    NormShapes,
    Source,
    TanhCurves,
    TokensAndChannels,
)
from matched.planning import Plan, PlannedRun
from matched.report import figure_list
from matched.report.figure_list import DrawnFigure
from matched.report.figures import diagrams, norm_layers, training
from matched.report.figures.canvas import Canvas, PanelRuns, settings
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
            problem = finding = ""
            missing_runs = False
            try:
                paths = drawer.draw(name, folder)
                finding = drawer.finding(name)
            except ValueError as error:
                problem = str(error)
                missing_runs = isinstance(error, MissingRunsError)
            drawn.append(
                DrawnFigure(
                    name=name,
                    scale=drawer.scale,
                    caption=figure.caption,
                    paths=tuple(paths),
                    problem=problem,
                    missing_runs=missing_runs,
                    finding=finding,
                )
            )
    return drawn


class MissingRunsError(ValueError):
    """Runs that a figure shows are not finished."""


class FigureDrawer:
    """Draws figures from the runs of one scale; a recipe's plan is made once."""

    def __init__(self, project: Path, site: Site, scale: str) -> None:
        self.project, self.site, self.scale = project, site, scale
        self._plans: dict[str, Plan] = {}

    def draw(self, name: str, folder: Path) -> list[Path]:
        """Write ``name``.<scale>.svg, .png and .csv to ``folder``.

        Raises:
            MissingRunsError: if runs are missing, with the commands that compute them.
            ValueError: if the recipe has no such scale, or if a run's data is damaged.
            OSError: if the folder cannot be written.
        """
        figure = figure_list.find(self.project, name)
        panels = [self._runs(name, source) for source in figure.sources]
        canvas = Canvas(f"{name}.{self.scale}" if panels else name)
        with settings():
            self._draw(canvas, figure, panels)
            return canvas.save(folder)

    def finding(self, name: str) -> str:
        """Return what the runs of a figure show, in a sentence; empty for most figures.

        Raises:
            ValueError: as ``draw``.
        """
        figure = figure_list.find(self.project, name)
        if not isinstance(figure, NormShapes):
            return ""
        panels = [self._runs(name, source) for source in figure.sources]
        return norm_layers.describe_shapes(panels, self.scale)

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
        elif isinstance(figure, BlockDiagram):
            diagrams.draw_block(canvas)
        else:
            diagrams.draw_best_alpha0(canvas, _printed_alpha0(self.project, figure))

    def _runs(self, name: str, source: Source) -> PanelRuns:
        """Return the first seed's runs of a source, by arm."""
        plan = self._plan(source.recipe)
        runs: dict[str, PlannedRun] = {}
        for planned in plan.runs:
            for cell in planned.cells:
                wanted = not source.arms or cell.arm in source.arms
                if cell.row == source.row and wanted:
                    needed = source.need and plan.by_run[cell.run.needs[source.need]]
                    runs.setdefault(cell.arm, needed or planned)
        missing = [p.title for p in runs.values() if not p.status.state.finished]
        if missing or not runs:
            arguments = plan.recipe.arguments(plan.scale)
            raise MissingRunsError(
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


def _printed_alpha0(project: Path, figure: BestAlpha0) -> dict[str, dict[int, float]]:
    """Return label → width → the α0 that the paper prints."""
    numbers = recipes.paper_numbers(project)
    series = {}
    for label, (table, row) in figure.series.items():
        paper, _, key = table.partition(".")
        cells = numbers[paper][key]["rows"][row]
        widths = [arm for arm in cells if re.fullmatch(r"\d+", arm)]
        series[label] = {int(width): float(cells[width][figure.metric]) for width in widths}
    return series
