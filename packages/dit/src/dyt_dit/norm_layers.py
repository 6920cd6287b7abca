"""Analysis of the norm layers of a trained diffusion transformer: CVPR 2025, Figure 2.

The config is that of the training, which the run needs under the name "trained", in addition
to "latents". The task writes norm_layers.npz (``dyt.norm_analysis.to_arrays``) and a picture.
"""

from __future__ import annotations

from dyt.norm_analysis import record_norms, shape_metrics, to_arrays
from dyt_dit.config import Training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents
from dyt_dit.model import build
from dyt_dit.training import HeldOutLoss
from matched.task import Context, Outcome
from matched.training.artifacts import TRAINING_DIVERGED, has_diverged
from matched.training.checkpoint import load_weights
from matched.training.distributed import process_group
from matched.training.fingerprint import batch_digest
from matched.training.norm_layer_files import save_analysis

IMAGES = 32
"""Held-out images of the batch that is analyzed, each at a different diffusion step."""


def analyze(context: Context, config: Training) -> Outcome:
    """Record the norm layers of the EMA weights on one batch of noised held-out images.

    Raises:
        ValueError: if the training has no checkpoint, or its weights do not fit the network.
    """
    trained = context.needs["trained"]
    if has_diverged(trained):
        return TRAINING_DIVERGED
    with process_group(context) as device:
        model, paths = build(config)
        load_weights(model, trained)
        model.to(device).eval()
        diffusion = Diffusion(config.diffusion_steps)
        latents = Latents(context.needs["latents"], "held_out")
        held_out = HeldOutLoss(latents, diffusion, config, context, device)
        batch = held_out.batch(range(min(IMAGES, held_out.count)))
        x, labels, t, noise = (tensor.to(device) for tensor in batch)
        noised = diffusion.noised(x, t, noise)
        records = record_norms(
            model, lambda: model(noised, t, labels), paths=paths, seed=config.seed
        )
        context.write_fingerprint(weights="none", batches=[batch_digest(list(batch))])
        return save_analysis(context, to_arrays(records), shape_metrics(records))
