"""Analysis of the norm layers of a trained diffusion transformer: CVPR 2025, Figure 2.

The config is that of the training, which the run needs under the name "trained", in addition
to "latents". The task writes norm_layers.npz (``dyt.norm_analysis.to_arrays``) and a picture.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_dit.config import Training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents
from dyt_dit.model import build
from dyt_dit.training import HeldOutLoss
from matched.task import Context, Outcome
from matched.training.checkpoint import load_weights
from matched.training.norm_layer_files import Analysis, analyze_trained

IMAGES = 32
"""Held-out images of the batch that is analyzed, each at a different diffusion step."""


def analyze(context: Context, config: Training) -> Outcome:
    """Record the norm layers of the EMA weights on one batch of noised held-out images.

    Raises:
        ValueError: if the training has no checkpoint, or its weights do not fit the network.
    """
    return analyze_trained(context, partial(_analysis, context, config))


def _analysis(context: Context, config: Training, trained: Path, device: torch.device) -> Analysis:
    model, paths = build(config)
    load_weights(model, trained)
    model.to(device).eval()
    diffusion = Diffusion(config.diffusion_steps)
    latents = Latents(context.needs["latents"], "held_out")
    held_out = HeldOutLoss(latents, diffusion, config, context, device)
    batch = held_out.batch(range(min(IMAGES, held_out.count)))
    x, labels, t, noise = (tensor.to(device) for tensor in batch)
    noised = diffusion.noised(x, t, noise)
    records = record_norms(model, lambda: model(noised, t, labels), paths=paths, seed=config.seed)
    return Analysis(batch=list(batch), arrays=to_arrays(records), metrics=shape_metrics(records))
