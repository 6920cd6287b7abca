"""Files of an analysis of norm layers: its data, and a picture of some layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matched.task import Context, Outcome
from matched.training.artifacts import save_arrays
from matched.training.distributed import on_rank0

STEM = "norm_layers"


def save_analysis(
    context: Context, arrays: Mapping[str, Any], metrics: Mapping[str, float]
) -> Outcome:
    """Write norm_layers.npz, .svg and .png, and return the outcome, which names the picture.

    Args:
        arrays: those of ``dyt.norm_analysis.to_arrays``.
        metrics: those of the outcome.
    """
    save_arrays(context, f"{STEM}.npz", arrays)
    on_rank0(lambda: _draw(context))
    return Outcome(metrics=metrics, steps=1, details={"picture": f"{STEM}.png"})


def _draw(context: Context) -> None:
    # matplotlib loads for a second, and trainings do not need it.
    from matched.report.figures.canvas import Canvas, settings
    from matched.report.figures.norm_layers import draw_analysis

    canvas = Canvas(STEM)
    with settings():
        draw_analysis(canvas, context.directory / f"{STEM}.npz")
        context.check_ownership()
        canvas.save_pictures(context.directory)
