"""Training of a diffusion transformer on cached latents: the task ``dyt_dit.training:train``.

Sources: CVPR 2025, Section 5; DiT, Section 4.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from dyt import alphas
from dyt_dit import release_weights
from dyt_dit.config import Training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents, open_cache
from dyt_dit.model import DiffusionTransformer, build
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed, sum_over_ranks
from matched.training.artifacts import gather_state_dict, save_artifact
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group
from matched.training.seeding import generator

log = logging.getLogger("matched")
WEIGHTS = "weights.pt"
"""Output of a training: weights ("model") and EMA weights ("ema"), named as in the DiT release."""
WEIGHTS_KEYS = ("ema", "model", "network", "diffusion_steps", "autoencoder")
"""Keys of that file: both state dicts, and the settings that sampling must share."""
CALIBRATION_LATENTS = 64
"""Latents that a calibrated α is fitted to, each at another step."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Latents (B, C, H, W), labels (B,), steps (B,), noise (B, C, H, W)."""


def train(context: Context, config: Training) -> Outcome:
    """Train and evaluate by the mean loss over held-out images, each at a different step.

    Raises:
        ValueError: if the latents are damaged, were made by another autoencoder, or do not fit
            the network.
    """
    with process_group(context) as device:
        latents = context.needs["latents"]
        cache = open_cache(
            context,
            latents,
            autoencoder_folder=context.data.get("sd-vae"),
            network=config.network,
            flip=config.flip,
        )
        dataset = Latents(latents, "train", config.flip)
        model, differing_layers = build(config, partial(run_on_latents, dataset, config))
        model.to(device)
        ema = None
        if config.ema_decay is not None:
            ema = ModelEmaV3(model, decay=config.ema_decay)
        diffusion = Diffusion(config.diffusion_steps)
        log.info("diffusion transformer with %s, %s", config.norm, config.network)
        learner = Learner(
            model=model,
            optimizer=optimizer(model, config),
            dataset=dataset,
            loss=HybridLoss(diffusion),
            evaluate=HeldOutLoss(Latents(latents, "held_out"), diffusion, config, context, device),
            selection_metric=("loss", "lower"),
            norms=differing_layers,
            prepare=AddNoise(config),
            ema=ema,
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
        _save_weights(context, model, ema, cache.checksum, config.diffusion_steps)
        return outcome


def run_on_latents(dataset: Latents, config: Training, model: nn.Module) -> Tensor:
    """Run a network on noised training latents that depend on the seed alone."""
    batch = seeded_batch(dataset, CALIBRATION_LATENTS, config.seed, "calibration")
    reseed(config.seed, "calibration", "noise")
    return HybridLoss(Diffusion(config.diffusion_steps))(model, AddNoise(config)(batch))


def optimizer(model: nn.Module, config: Training) -> torch.optim.AdamW:
    """Return AdamW; weight decay does not apply to 1-D parameters (biases, alpha)."""
    groups = param_groups_weight_decay(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


class HybridLoss:
    """Hybrid loss: mean over a batch of the noise's squared error plus the variational bound."""

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        squared, bits = self.terms(model, batch)
        return (squared + bits).mean()

    def terms(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return both terms for each image, (B,) and (B,)."""
        x, labels, t, noise = batch
        noised = self.diffusion.noised(x, t, noise)
        return self.diffusion.losses(model(noised, t, labels), x, noised, t, noise)


class AddNoise:
    """Random draws for a micro-batch: dropped labels, diffusion steps and noise.

    They are drawn outside the network because the two arms of a pair must have them in common.
    """

    def __init__(self, config: Training) -> None:
        self.config = config

    def __call__(self, batch: list[Tensor]) -> Batch:
        x, labels = batch
        config, device = self.config, x.device
        dropped = torch.rand(len(x), device=device) < config.class_dropout
        labels = torch.where(dropped, config.network.classes, labels)
        t = torch.randint(config.diffusion_steps, (len(x),), device=device)
        return x, labels, t, torch.randn_like(x)


class HeldOutLoss:
    """Mean loss over held-out images, with the same steps and noise at every evaluation.

    The steps are spread evenly over the forward process: random steps would add more variance to
    the mean than the choice of images does.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        diffusion: Diffusion,
        config: Training,
        context: Context,
        device: torch.device,
    ) -> None:
        self.dataset, self.config, self.context, self.device = dataset, config, context, device
        self.loss = HybridLoss(diffusion)
        size = len(dataset)  # type: ignore[arg-type]  # Dataset declares no len()
        self.count = min(config.held_out, size)
        self.indices = [i * size // self.count for i in range(self.count)]
        source = generator(config.seed, "evaluation")
        positions = torch.randperm(self.count, generator=source) + 0.5
        self.steps = (positions * config.diffusion_steps / self.count).long()

    def __call__(self, model: nn.Module) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        size, world_size = self.config.eval_batch, self.context.world_size
        for start in range(0, self.count, size * world_size):
            own = range(start + self.context.rank * size, self.count)[:size]
            # A sharded model must be called equally often by all processes: a process without
            # images left evaluates one that is not counted.
            x, labels, t, noise = (tensor.to(self.device) for tensor in self.batch(own or range(1)))
            terms = self.loss.terms(model, (x, labels, t, noise))
            squared, bits = (term[: len(own)] for term in terms)
            batch_sums = [squared.sum(), bits.sum(), torch.tensor(len(own))]
            sums += torch.stack([value.to(sums) for value in batch_sums])
        squared, bits, count = sum_over_ranks(sums).tolist()
        return {"loss": (squared + bits) / count, "mse": squared / count, "vb": bits / count}

    def batch(self, positions: range) -> Batch:
        """Return the held-out images at these positions with their steps and noise."""
        samples = []
        for position in positions:
            # Also seeds the posterior sample that the data set draws.
            reseed(self.config.seed, "evaluation", position)
            x, label = self.dataset[self.indices[position]]
            samples.append((x, label, self.steps[position], torch.randn_like(x)))
        x, label, step, noise = (torch.stack(column) for column in zip(*samples, strict=True))
        return x, label, step, noise


def _save_weights(
    context: Context,
    model: DiffusionTransformer,
    ema: ModelEmaV3 | None,
    autoencoder: str,
    diffusion_steps: int,
) -> None:
    """Write the weights and the settings that sampling must share; call on all processes."""
    averaged = model if ema is None else ema.module
    states = {
        "ema": gather_state_dict(averaged.state_dict()),
        "model": gather_state_dict(model.state_dict()),
    }
    renamed = {key: release_weights.to_release(model, state) for key, state in states.items()}
    settings = {
        "network": asdict(model.network),
        "autoencoder": autoencoder,
        "diffusion_steps": diffusion_steps,
    }
    save_artifact(context, WEIGHTS, {**renamed, **settings})
