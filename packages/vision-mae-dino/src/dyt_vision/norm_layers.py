"""Analysis of the norm layers of a trained classifier: the task of CVPR 2025, Figures 2, 4 and 8.

The config is that of the training, which the run needs under the name "trained". The task writes
norm_layers.npz (``dyt.norm_analysis.to_arrays``); its metrics are ``dyt.norm_analysis``'s.
"""

from __future__ import annotations

import torch

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_vision import models
from dyt_vision.config import Supervised
from dyt_vision.supervised import load_data
from matched.task import Context, Outcome
from matched.training.artifacts import has_diverged, save_arrays
from matched.training.checkpoint import load_weights
from matched.training.distributed import process_group
from matched.training.fingerprint import batch_digest
from matched.training.seeding import generator

ARRAYS = "norm_layers.npz"
IMAGES = 32
"""Held-out images of the batch that is analyzed."""


def analyze(context: Context, config: Supervised) -> Outcome:
    """Record the norm layers of the EMA weights on one batch of held-out images.

    Raises:
        ValueError: if the training has no checkpoint, or its weights do not fit the network.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        details = {"reason": "the training diverged"}
        return Outcome(metrics={}, diverged=True, steps=0, details=details)
    with process_group(context) as device:
        data = load_data(context, config)
        model, paths = models.build(config, data.classes)
        load_weights(model, trained)
        model.to(device).eval()
        held_out = data.held_out
        chosen = torch.randperm(len(held_out), generator=generator(config.seed, "norm layers"))
        images = torch.stack([held_out[i][0] for i in chosen[:IMAGES].tolist()])
        records = record_norms(
            model, lambda: model(images.to(device)), paths=paths, seed=config.seed
        )
        save_arrays(context, ARRAYS, to_arrays(records))
        context.write_fingerprint(weights="none", batches=[batch_digest(images)])
        return Outcome(metrics=shape_metrics(records), steps=1)
