"""Figures without runs: tanh(αx), and a block with DyT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matched.report.figures.canvas import COLORS, DASHES, Canvas

BLOCK = ("{norm}", "Attention / FFN / …", "+")
"""Boxes of a block from its input upwards."""


def draw_tanh(canvas: Canvas, alphas: Sequence[float]) -> None:
    """Draw tanh(αx) for each α."""
    axis = canvas.axes(1, 1, width=3.2, height=2.4)[0, 0]
    canvas.columns = ("alpha", "x", "y")
    x = np.linspace(-6, 6, 241)
    for index, alpha in enumerate(alphas):
        y = np.tanh(alpha * x)
        axis.plot(x, y, DASHES[index % len(DASHES)], color=COLORS[index], label=f"α = {alpha:g}")
        canvas.add_rows((alpha, f"{a:.2f}", f"{b:.6f}") for a, b in zip(x, y, strict=True))
    axis.set_xlabel("x")
    axis.set_ylabel("tanh(αx)")
    axis.legend()


def draw_block(canvas: Canvas) -> None:
    """Draw a Transformer block with a norm layer next to one with DyT."""
    axes = canvas.axes(1, 2, width=2.3, height=3.0)[0]
    for axis, norm, color in zip(
        axes, ("Norm layer", "DyT:  γ · tanh(αx) + β"), COLORS, strict=False
    ):
        axis.set_axis_off()
        axis.set(xlim=(0, 10), ylim=(0, 12))
        for index, text in enumerate(BLOCK):
            filled = color if "{" in text else "#eeeeee"
            _box(axis, text.format(norm=norm), 2.2 + 3.2 * index, filled)
        for start in (0.2, 3.0, 6.2, 9.4):
            axis.annotate("", (5, start + 1.4), (5, start), arrowprops={"arrowstyle": "-|>"})
        # The residual connection, around the norm layer and what follows it.
        axis.plot([5, 0.6, 0.6, 4.2], [0.8, 0.8, 8.6, 8.6], color="black", linewidth=1)


def _box(axis: Any, text: str, y: float, color: str) -> None:
    white = color != "#eeeeee"
    axis.text(
        5,
        y,
        text,
        ha="center",
        va="center",
        color="white" if white else "black",
        bbox={"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "black"},
    )
