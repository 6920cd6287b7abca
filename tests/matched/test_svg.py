"""Charts as SVG: every element of a small chart, with its place and text."""

import math
from pathlib import Path

import pytest

from matched.report import svg
from matched.report.svg import Series, line_chart

# The axes are 276 × 154 units with a margin of 4 % of the range at each end. Of x from 0 to 20,
# 0 is at 46 + 276 · 0.04/1.08 = 56.2; of y from 0 to 1, 0 is at 176 - 154 · 0.04/1.08 = 170.3.
FRAME = """\
<svg class="chart" viewBox="0 0 330 210" role="img" \
aria-label="t &quot;1&quot;: loss against step &amp; x">
<line class="grid" x1="46" x2="322" y1="170.3" y2="170.3"/>
<text class="tick" x="41" y="170.3" text-anchor="end" dominant-baseline="middle">0</text>
<line class="grid" x1="46" x2="322" y1="99.0" y2="99.0"/>
<text class="tick" x="41" y="99.0" text-anchor="end" dominant-baseline="middle">0.5</text>
<line class="grid" x1="46" x2="322" y1="27.7" y2="27.7"/>
<text class="tick" x="41" y="27.7" text-anchor="end" dominant-baseline="middle">1</text>
<text class="tick" x="56.2" y="189" text-anchor="middle">0</text>
<text class="tick" x="184.0" y="189" text-anchor="middle">10</text>
<text class="tick" x="311.8" y="189" text-anchor="middle">20</text>
<line class="axis" x1="46" x2="322" y1="176" y2="176"/>
<text class="label" x="184.0" y="205" text-anchor="middle">step &amp; x</text>
<text class="label" transform="translate(10 99.0) rotate(-90)" text-anchor="middle">loss</text>
<text class="title" x="46" y="13">t &quot;1&quot;</text>
"""
LINES = """\
<path class="line arm1" d="M56.2 170.3h0L184.0 27.7M311.8 99.0h0">
<title>a&lt;b</title>
</path>
<path class="line arm2" d="M184.0 99.0h0">
<title>c</title>
</path>
</svg>"""
POINTS = """\
<g class="points arm1">
<title>a&lt;b</title>
<circle cx="56.2" cy="170.3" r="2.5"/>
<circle cx="184.0" cy="27.7" r="2.5"/>
<circle cx="311.8" cy="99.0" r="2.5"/>
</g>
<g class="points arm2">
<title>c</title>
<circle cx="184.0" cy="99.0" r="2.5"/>
</g>
</svg>"""


def test_line_chart_has_grid_ticks_labels_and_series():
    """The first series is of the eighth arm, which has the style of the second."""
    series = [
        Series(label="a<b", style=7, x=[0, 10, 15, 20], y=[0.0, 1.0, math.nan, 0.5]),
        Series(label="c", style=2, x=[10], y=[0.5]),
    ]
    for points, body in ((False, LINES), (True, POINTS)):
        chart = line_chart('t "1"', series, x_label="step & x", y_label="loss", points=points)
        assert chart.replace("><", ">\n<") == FRAME + body


def test_chart_without_finite_values_has_empty_axes():
    series = [Series(label="a", style=0, x=[3, 4], y=[math.nan, math.inf])]
    chart = line_chart("t", series, x_label="x", y_label="y")
    assert '<path class="line arm0" d="">' in chart
    ticks = [part.split("<")[0].split(">")[1] for part in chart.split('class="tick"')[1:]]
    assert ticks == ["0", "0.5", "1", "0", "1"]  # of y, then whole ones of x


def test_style_sheet_has_a_class_for_each_style():
    style = (Path(svg.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    assert [f".arm{index} {{" in style for index in range(svg.STYLES + 1)] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("low", "high", "expected", "whole"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1], [0, 1]),
        (-0.3, 1.1, [0, 0.5, 1], [0, 1]),
        (2.9, 3.1, [2.9, 2.95, 3, 3.05, 3.1], [3]),
        (0.001, 0.0049, [0.001, 0.002, 0.003, 0.004], []),
        (0, 7, [0, 2, 4, 6], [0, 2, 4, 6]),
        (0, 10, [0, 2.5, 5, 7.5, 10], [0, 3, 6, 9]),
        (0, 19.99, [0, 5, 10, 15], [0, 5, 10, 15]),
        (0, 20.02, [0, 5, 10, 15, 20], [0, 5, 10, 15, 20]),  # within a thousandth of 5
        (0, 20.08, [0, 10, 20], [0, 10, 20]),
        (10_000, 33_000, [10_000, 20_000, 30_000], [10_000, 20_000, 30_000]),
        (7, 7, [7], [7]),
        (7, 4, [7], [7]),
    ],
)
def test_ticks_are_about_four_round_numbers(low, high, expected, whole):
    assert svg.ticks(low, high) == pytest.approx(expected)
    assert svg.ticks(low, high, whole=True) == whole


def test_ticks_may_be_more_or_fewer():
    assert svg.ticks(0, 6, 2) == [0, 5]
    assert svg.ticks(0, 6, 12) == pytest.approx([n / 2 for n in range(13)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1500, "1500"),
        (-9999, "−9999"),
        (10_000, "10k"),
        (-12_345, "−12.345k"),
        (0.25, "0.25"),
        (0.123456, "0.1235"),
        (-1e-7, "−1e−07"),
    ],
)
def test_number_of_a_tick_is_short(value, text):
    assert svg.number(value) == text
