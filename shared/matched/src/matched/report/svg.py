"""Charts as inline SVG, whose colours follow the page's style sheet: lines and points.

Arms differ in colour and in dash pattern, for prints and for colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 330, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 22, 34
MARGIN = 0.04
"""Part of the range of an axis that is free at each end."""
STYLES = 6
"""Classes "arm0" to "arm5" of the style sheet."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or set of points.

    Attributes:
        style: index of the arm, for colour and dash pattern.
        y: NaN interrupts a line.
    """

    label: str
    style: int
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, points: bool = False
) -> str:
    """Return an SVG of all series on common axes, as lines, or as points; x are whole numbers."""
    finite = [
        (x, y) for one in series for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)
    ]
    xs, ys = [x for x, _ in finite] or [0.0, 1.0], [y for _, y in finite] or [0.0, 1.0]
    (x_low, x_high), (y_low, y_high) = _with_margins(xs), _with_margins(ys)
    axes = _Axes(x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high)
    draw = _points if points else _line
    body = [
        *axes.frame(x_label, y_label),
        f'<text class="title" x="{LEFT}" y="13">{escape(title)}</text>',
        *(draw(axes, one) for one in series),
    ]
    label = escape(f"{title}: {y_label} against {x_label}", quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(body)}</svg>"
    )


def _with_margins(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis, so that nothing is drawn on its ends."""
    low, high = min(values), max(values)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _line(axes: _Axes, series: Series) -> str:
    parts: list[str] = []
    pen_down = False
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(y):
            point = f"{axes.x(x):.1f} {axes.y(y):.1f}"
            parts.append(f"L{point}" if pen_down else f"M{point}h0")  # h0: a dot if it stays alone
        pen_down = math.isfinite(y)
    return (
        f'<path class="line arm{series.style % STYLES}" d="{"".join(parts)}">'
        f"<title>{escape(series.label)}</title></path>"
    )


def _points(axes: _Axes, series: Series) -> str:
    circles = "".join(
        f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5"/>'
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(y)
    )
    return (
        f'<g class="points arm{series.style % STYLES}">'
        f"<title>{escape(series.label)}</title>{circles}</g>"
    )


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Linear axes from data to the coordinates of the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_label: str, y_label: str) -> Iterator[str]:
        """Yield grid lines with their numbers, and the labels of the axes."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for tick in ticks(self.y_low, self.y_high):
            y = f"{self.y(tick):.1f}"
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            yield (
                f'<text class="tick" x="{LEFT - 5}" y="{y}" text-anchor="end" '
                f'dominant-baseline="middle">{number(tick)}</text>'
            )
        for tick in ticks(self.x_low, self.x_high, whole=True):
            x = f"{self.x(tick):.1f}"
            yield (
                f'<text class="tick" x="{x}" y="{bottom + 13}" text-anchor="middle">'
                f"{number(tick)}</text>"
            )
        yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        middle = (LEFT + right) / 2
        yield (
            f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        middle = (TOP + bottom) / 2
        yield (
            f'<text class="label" transform="translate(10 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )


def ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``, or only whole ones."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if whole:
        step = math.ceil(step)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Format a tick: 1500 → "1500", 20000 → "20k", 0.25 → "0.25"."""
    text = f"{value / 1000:.6g}k" if abs(value) >= 10_000 else f"{value:.4g}"
    return text.replace("-", "−")
