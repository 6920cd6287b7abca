"""Figures of searches: the best α0 against the width, and the metric of every value tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from matched.entries import Entry
from matched.report.figures.canvas import COLORS, DASHES, MARKERS, Canvas

Series = Mapping[str, Mapping[float, float]]
"""Label → x → y."""


@dataclass(frozen=True, kw_only=True)
class PanelEntries:
    """The entries of one source of a figure: those of its row, by the metric that decides."""

    title: str
    entries: Sequence[Entry]


def draw_best_alpha0(
    canvas: Canvas, panels: Sequence[PanelEntries], printed: Series, width: str, scale: str
) -> None:
    """Draw the best α0 against the width: of our runs, and as printed, both axes logarithmic.

    Args:
        width: path of the width in the runs' configs.

    Raises:
        ValueError: if a search has no best value, because all of its runs diverged.
    """
    ours = {panel.title: _best_by_width(panel, width) for panel in panels}
    axes = canvas.axes(1, 2, width=3.2, height=2.6)[0]
    canvas.columns = ("source", "series", "width", "alpha0")
    for axis, title, series in zip(
        axes, (f"Our runs, {scale} scale", "As printed in the paper"), (ours, printed), strict=True
    ):
        for index, (label, values) in enumerate(series.items()):
            axis.plot(
                list(values),
                list(values.values()),
                DASHES[index % len(DASHES)],
                marker=MARKERS[index],
                color=COLORS[index],
                label=label,
            )
            canvas.add_rows((title, label, f"{x:g}", f"{y:g}") for x, y in values.items())
        axis.set(xscale="log", yscale="log", xlabel="width of the model", ylabel="best α0")
        widths = {x for values in series.values() for x in values}
        _set_ticks(axis.get_xaxis(), [w for w in widths if math.log2(w).is_integer()] or widths)
        _set_ticks(axis.get_yaxis(), {y for values in series.values() for y in values.values()})
        axis.set_title(title)
        axis.margins(0.12)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.1), frameon=False)


def _best_by_width(panel: PanelEntries, width: str) -> dict[float, float]:
    found = {}
    for entry in panel.entries:
        assert entry.search is not None
        if entry.search.best is None:
            raise ValueError(f"{panel.title}: the search of {entry.arm} has no best value")
        trial = entry.search.best.trial
        (value,) = trial.values.values()
        found[float(attrgetter(width)(trial.run.config))] = value
    return dict(sorted(found.items()))


def draw_values(canvas: Canvas, panels: Sequence[PanelEntries]) -> None:
    """Draw the metric of every value tried against the value, one panel for each row."""
    axes = canvas.axes(1, len(panels), width=2.3, height=2.3)[0]
    canvas.columns = ("panel", "arm", "value", "metric", "mean", "std")
    for axis, panel in zip(axes, panels, strict=True):
        for index, entry in enumerate(panel.entries):
            style = {"color": COLORS[index], "label": entry.arm}
            metric = entry.metric.label
            if entry.search is None:
                mean = entry.ours.mean
                if mean is not None:
                    axis.axhline(mean, linestyle=DASHES[1], **style)
                canvas.add_rows([(panel.title, entry.arm, "", metric, mean, entry.ours.std)])
                continue
            trials = [t for t in entry.search.trials if t.cell.mean is not None]
            axis.errorbar(
                [next(iter(t.trial.values.values())) for t in trials],
                [t.cell.mean for t in trials],
                yerr=[t.cell.std or 0.0 for t in trials],
                marker=MARKERS[index],
                **style,
            )
            canvas.add_rows(
                (panel.title, entry.arm, t.trial.label, metric, t.cell.mean, t.cell.std)
                for t in entry.search.trials
            )
            _set_values(axis, entry)
        axis.set_title(panel.title)
        axis.set_ylabel(panel.entries[0].metric.label)
        axis.legend()


def _set_values(axis: Any, entry: Entry) -> None:
    """Make the axis of values logarithmic, with a tick at each value tried."""
    assert entry.search is not None
    (name,) = entry.search.search.parameters
    axis.set(xscale="log", xlabel="α0" if name == "alpha0" else name)
    values = [next(iter(trial.trial.values.values())) for trial in entry.search.trials]
    _set_ticks(axis.get_xaxis(), values)


def draw_pairs(canvas: Canvas, panels: Sequence[PanelEntries]) -> None:
    """Draw the metric of every pair of values as a map; pairs that were not tried are blank.

    Raises:
        ValueError: if a search tries single values.
    """
    axes = canvas.axes(1, len(panels), width=3.0, height=2.8)[0]
    canvas.columns = ("panel", "x", "y", "mean", "std")
    for axis, panel in zip(axes, panels, strict=True):
        (entry,) = panel.entries
        assert entry.search is not None
        if len(entry.search.search.parameters) != 2:
            raise ValueError(f"{panel.title}: a map needs a search of two values")
        means = {tuple(t.trial.values.values()): t.cell.mean for t in entry.search.trials}
        xs, ys = (sorted({pair[i] for pair in means}) for i in (1, 0))
        # Without a mean, such as of a diverged run, the field is blank.
        grid = [[means.get((y, x)) for x in xs] for y in ys]
        shown = [[math.nan if mean is None else mean for mean in row] for row in grid]
        image = axis.imshow(shown, origin="lower", cmap="viridis", aspect="auto")
        middle = sum(image.get_clim()) / 2
        canvas.color_bar(image, axis, entry.search.metric.label)
        for i, row in enumerate(grid):
            for j, mean in enumerate(row):
                if mean is not None:
                    color = "white" if mean < middle else "black"
                    axis.text(j, i, f"{mean:.3f}", ha="center", va="center", color=color)
        y_name, x_name = entry.search.search.parameters
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axis.set(xlabel=_axis_name(x_name), ylabel=_axis_name(y_name), title=panel.title)
        axis.grid(visible=False)
        canvas.add_rows(
            (panel.title, *(f"{v:g}" for v in reversed(list(t.trial.values.values()))), t.cell.mean,
             t.cell.std)
            for t in entry.search.trials
        )  # fmt: skip


def _axis_name(parameter: str) -> str:
    name, _, part = parameter.partition("_")
    return f"{'α0' if name == 'alpha0' else name} {part}".strip()


def _set_ticks(axis: Any, values: Iterable[float]) -> None:
    """Label these values of a logarithmic axis, and no others."""
    axis.set_ticks(sorted(values))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")
