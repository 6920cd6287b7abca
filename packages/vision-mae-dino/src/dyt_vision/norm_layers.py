"""Norm layers of classifiers: analysis after training (CVPR 2025, Figures 2, 4, 8) and during it.

``analyze`` has the config of the training that its run needs under the name "trained". It writes
norm_layers.npz (``dyt.norm_analysis.to_arrays``) and a picture; its metrics are those of
``dyt.norm_analysis.shape_metrics``.
``train_and_record`` trains with records of α and 1/std at each evaluation (Figure 7).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_vision import models
from dyt_vision.config import Supervised
from dyt_vision.image_data import ImageSplits
from dyt_vision.supervised import load_data, make_learner, make_optimizer, run_on_images
from matched.task import Context, Outcome
from matched.training import fit
from matched.training.checkpoint import load_weights
from matched.training.distributed import process_group
from matched.training.norm_layer_files import Analysis, analyze_trained
from matched.training.seeding import generator

IMAGES = 32
"""Held-out images of the batch that is analyzed."""


def analyze(context: Context, config: Supervised) -> Outcome:
    """Record the norm layers of the EMA weights on one batch of held-out images.

    Raises:
        ValueError: if the training has no checkpoint, or its weights do not fit the network.
    """
    return analyze_trained(context, partial(_analysis, context, config))


def _analysis(
    context: Context, config: Supervised, trained: Path, device: torch.device
) -> Analysis:
    data = load_data(context, config)
    model, paths = models.build(config, data.classes)
    load_weights(model, trained)
    model.to(device).eval()
    images = _batch(data, config)
    records = record_norms(model, lambda: model(images.to(device)), paths=paths, seed=config.seed)
    return Analysis(batch=images, arrays=to_arrays(records), metrics=shape_metrics(records))


def _batch(data: ImageSplits, config: Supervised) -> Tensor:
    """Return some held-out images (B, 3, H, W), which depend on the seed alone."""
    held_out: Any = data.held_out  # Dataset does not declare its length
    chosen = torch.randperm(len(held_out), generator=generator(config.seed, "norm layers"))
    return torch.stack([held_out[i][0] for i in chosen[:IMAGES].tolist()])


def train_and_record(context: Context, config: Supervised) -> Outcome:
    """Train as ``dyt_vision.supervised.train``, and add α and 1/std of the inputs to evaluations.

    Their keys are "alpha/<path>" and "inverse_std/<path>", both of the EMA weights.
    """
    with process_group(context) as device:
        data = load_data(context, config)
        model, norms = models.build(config, data.classes, partial(run_on_images, config, data))
        model.to(device)
        optimizer = make_optimizer(model, config)
        learner = make_learner(context, config, data, model, norms, optimizer, device)
        images = _batch(data, config).to(device)
        evaluate = learner.evaluate
        learner.evaluate = lambda model: {
            **evaluate(model),
            **_alphas_and_stds(model, images, norms),
        }
        return fit(context, config, learner, device)


def _alphas_and_stds(model: nn.Module, images: Tensor, paths: Collection[str]) -> dict[str, float]:
    """Return α and 1/std of the inputs of each norm layer, with the keys of evaluations."""
    records = record_norms(model, lambda: model(images), paths=paths)
    alphas = {f"alpha/{path}": r.alpha for path, r in records.items() if r.alpha is not None}
    return {**alphas, **{f"inverse_std/{path}": 1 / r.input_std for path, r in records.items()}}
