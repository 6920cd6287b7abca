"""Figures of training: loss curves, and α with 1/std of the inputs after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matched.files import read_json_lines
from matched.report.figures.canvas import COLORS, DASHES, MARKERS, Canvas, PanelRuns

INVERSE_STD, ALPHA = "inverse_std/", "alpha/"
"""Prefixes of evaluation metrics, followed by the path of a layer."""


def draw_losses(canvas: Canvas, panels: Sequence[PanelRuns]) -> None:
    """Draw the training loss of every arm against the step, one panel for each row.

    Raises:
        ValueError: if a run has logged no loss.
    """
    axes = canvas.axes(1, len(panels), width=2.8, height=2.3)[0]
    canvas.columns = ("panel", "arm", "step", "loss")
    for axis, panel in zip(axes, panels, strict=True):
        for index, (arm, planned) in enumerate(panel.runs.items()):
            steps, losses = _losses(planned.directory / "metrics.jsonl")
            style = DASHES[index % len(DASHES)]
            axis.plot(steps, losses, style, color=COLORS[index], label=arm, linewidth=1.2)
            canvas.add_rows((panel.title, arm, *point) for point in zip(steps, losses, strict=True))
        axis.set_title(panel.title)
        axis.set_xlabel("step")
        axis.set_ylabel("training loss")
        axis.legend()


def _losses(file: Path) -> tuple[list[int], list[float]]:
    lines = [line for line in read_json_lines(file, ("step",)) if "loss" in line]
    if not lines:
        raise ValueError(f"{file} has no loss; the run that computes it has to train")
    losses = [math.nan if line["loss"] is None else float(line["loss"]) for line in lines]
    return [line["step"] for line in lines], losses


def draw_alpha(canvas: Canvas, panel: PanelRuns, depths: Sequence[float]) -> None:
    """Draw α and 1/std of the inputs of layers at these depths against the epoch.

    Raises:
        ValueError: if the run's evaluations have no 1/std.
    """
    (planned,) = panel.runs.values()
    file = planned.directory / "metrics.jsonl"
    epochs, evaluations = [], []
    for line in read_json_lines(file, ("step",)):
        if "evaluation" in line:
            epochs.append(line["epoch"])
            evaluations.append(line["evaluation"])
    names = [key for key in (evaluations or [{}])[0] if key.startswith(INVERSE_STD)]
    if not names:
        raise ValueError(f"{file} has no evaluation with 1/std of the layers' inputs")
    axes = canvas.axes(1, len(depths), width=2.8, height=2.3)[0]
    canvas.columns = ("layer", "epoch", "alpha", "inverse_std")
    for axis, depth in zip(axes, depths, strict=True):
        name = names[round(depth * (len(names) - 1))]
        layer = name.removeprefix(INVERSE_STD)
        alphas = [evaluation[ALPHA + layer] for evaluation in evaluations]
        inverses = [evaluation[name] for evaluation in evaluations]
        for index, (label, values) in enumerate((("α", alphas), ("1/std", inverses))):
            axis.plot(
                epochs,
                values,
                DASHES[index],
                marker=MARKERS[index],
                markersize=3,
                color=COLORS[index],
                label=label,
            )
        canvas.add_rows(zip([layer] * len(epochs), epochs, alphas, inverses, strict=True))
        axis.set_title(f"{panel.title}: {layer}")
        axis.set_xlabel("epoch")
        axis.legend()
