"""Figures of the papers drawn from our own runs: SVG, PNG and the data as CSV."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from matched import planning, recipes
from matched.entries import make_entries
from matched.figure import (
    AlphaAgainstStd,
    AlphaDuringTraining,
    BestAlpha0,
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
from matched.table import Cell

SHOWN = 8
"""Most missing runs that are named; the others are counted."""


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
        canvas = Canvas(f"{name}.{self.scale}" if figure.sources else name)
        if isinstance(figure, (BestAlpha0, ValuesTried, PairsTried)):
            entries = [self._entries(name, source) for source in figure.sources]
            with settings():
                self._draw_searches(canvas, figure, entries)
                return canvas.save(folder)
        panels = [self._runs(name, source) for source in figure.sources]
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
        else:
            diagrams.draw_block(canvas)

    def _draw_searches(
        self,
        canvas: Canvas,
        figure: BestAlpha0 | ValuesTried | PairsTried,
        panels: Sequence[PanelEntries],
    ) -> None:
        if isinstance(figure, BestAlpha0):
            printed = _printed_alpha0(self.project, figure)
            searches.draw_best_alpha0(canvas, panels, printed, figure.width, self.scale)
        elif isinstance(figure, ValuesTried):
            searches.draw_values(canvas, panels)
        else:
            searches.draw_pairs(canvas, panels)

    def _runs(self, name: str, source: Source) -> PanelRuns:
        """Return the first seed's runs of a source, by arm."""
        plan = self._plan(source.recipe)
        runs: dict[str, PlannedRun] = {}
        for cell, planned in _of_source(plan, source):
            needed = source.need and plan.by_run[cell.run.needs[source.need]]
            runs.setdefault(cell.arm, needed or planned)
        self._check_finished(name, source, plan, runs.values())
        return PanelRuns(title=source.title, runs=runs)

    def _entries(self, name: str, source: Source) -> PanelEntries:
        """Return the entries of a source's row with runs, by the metric of its searches."""
        plan = self._plan(source.recipe)
        shown = _of_source(plan, source)
        self._check_finished(name, source, plan, [planned for _, planned in shown])
        arms = {cell.arm for cell, _ in shown}
        found = [
            entry
            for of_metric in make_entries(plan, ())
            for entry in of_metric
            if entry.row == source.row and entry.arm in arms
        ]
        deciding = {entry.search.metric.key for entry in found if entry.search}
        return PanelEntries(
            title=source.title,
            entries=[entry for entry in found if entry.metric.key in deciding],
        )

    def _check_finished(
        self, name: str, source: Source, plan: Plan, runs: Collection[PlannedRun]
    ) -> None:
        missing = [planned.title for planned in runs if not planned.status.state.finished]
        if missing or not runs:
            arguments = plan.recipe.arguments(plan.scale)
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise MissingRunsError(
                f"{name} at {self.scale} scale needs runs that are not finished: "
                f"{', '.join(missing[:SHOWN]) or source.row}{more}; "
                f"run `matched submit {arguments} --wait`"
            )

    def _plan(self, name: str) -> Plan:
        if name not in self._plans:
            path = str(self.project / name) if name.endswith(".py") else name
            recipe = recipes.load(path)
            self._plans[name] = planning.make_plan(recipe, recipe.scale(self.scale), self.site)
        return self._plans[name]


def _of_source(plan: Plan, source: Source) -> list[tuple[Cell, PlannedRun]]:
    """Return the cells of a source's row and arms with their runs."""
    return [
        (cell, planned)
        for planned in plan.runs
        for cell in planned.cells
        if cell.row == source.row and cell.arm in (source.arms or (cell.arm,))
    ]


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
