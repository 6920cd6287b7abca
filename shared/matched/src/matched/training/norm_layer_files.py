"""Analysis of the norm layers of a trained network: the frame of the task, and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matched.task import Context, Outcome
from matched.training.artifacts import TRAINING_DIVERGED, has_diverged, save_arrays
from matched.training.distributed import on_rank0, process_group
from matched.training.fingerprint import batch_digest

STEM = "norm_layers"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Records of norm layers on one batch.

    Attributes:
        batch: what the network was run on, for the fingerprint.
        arrays: those of ``dyt.norm_analysis.to_arrays``.
        metrics: those of the outcome.
    """

    batch: Any
    arrays: Mapping[str, Any]
    metrics: Mapping[str, float]


def analyze_trained(context: Context, analyze: Callable[[Path, torch.device], Analysis]) -> Outcome:
    """Analyze the network of the needed run "trained"; do nothing if that run diverged.

    Writes norm_layers.npz, .svg and .png, and returns the outcome, which names the picture.

    Args:
        analyze: takes the directory of the trained run and this process's device.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        return TRAINING_DIVERGED
    with process_group(context) as device:
        analysis = analyze(trained, device)
        context.write_fingerprint(weights="none", batches=[batch_digest(analysis.batch)])
        save_arrays(context, f"{STEM}.npz", analysis.arrays)
        on_rank0(lambda: _draw(context))
        return Outcome(metrics=analysis.metrics, steps=1, details={"picture": f"{STEM}.png"})


def _draw(context: Context) -> None:
    # matplotlib loads for a second, and trainings do not need it.
    from matched.report.figures.canvas import Canvas, settings
    from matched.report.figures.norm_layers import draw_analysis

    canvas = Canvas(STEM)
    with settings():
        draw_analysis(canvas, context.directory / f"{STEM}.npz")
        context.check_ownership()
        canvas.save_pictures(context.directory)
