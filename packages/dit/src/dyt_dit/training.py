"""Trains a diffusion transformer on cached latents (CVPR 2025, Section 5; DiT, Section 4)."""

from __future__ import annotations

import logging
from dataclasses import asdict

import torch
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from dyt_dit import official
from dyt_dit.config import Training
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents, open_cache
from dyt_dit.model import DiffusionTransformer, build
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed, sum_over_ranks
from matched.training.artifacts import gather_state_dict, save_artifact
from matched.training.distributed import process_group
from matched.training.seeding import generator

log = logging.getLogger("matched")
WEIGHTS = "weights.pt"
"""What training leaves: weights under the names of the DiT release, and their average ("ema")."""
LEFT = ("ema", "model", "network", "diffusion_steps", "autoencoder")
"""What the file holds: both states, and what sampling has to have in common with the training."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Latents (B, C, H, W), labels (B,), steps (B,), noise (B, C, H, W)."""


def train(context: Context, config: Training) -> Outcome:
    """Train; evaluated by the mean loss over held-out images, each at a step of its own.

    Raises:
        ValueError: if the latents are damaged, or made by another autoencoder, or do not fit the
            network.
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
        model, apart = build(config)
        model.to(device)
        ema = None
        if config.ema_decay is not None:
            ema = ModelEmaV3(model, decay=config.ema_decay)
        diffusion = Diffusion(config.diffusion_steps)
        log.info("diffusion transformer with %s, %s", config.norm, config.network)
        learner = Learner(
            model=model,
            optimizer=optimizer(model, config),
            dataset=Latents(latents, "train", config.flip),
            loss=HybridLoss(diffusion),
            evaluate=HeldOutLoss(Latents(latents, "held_out"), diffusion, config, context, device),
            selection_metric=("loss", "lower"),
            norms=apart,
            prepare=Noised(config),
            ema=ema,
        )
        outcome = fit(context, config, learner, device)
        _leave(context, model, ema, cache.checksum, config.diffusion_steps)
        return outcome


def optimizer(model: nn.Module, config: Training) -> torch.optim.AdamW:
    """AdamW; where there is decay, parameters of one dimension (biases, alpha) have none."""
    groups = param_groups_weight_decay(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


class HybridLoss:
    """Mean over a batch of the noise's squared error and the variational bound's term."""

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        squared, bits = self.terms(model, batch)
        return (squared + bits).mean()

    def terms(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both terms of each image, (B,) and (B,)."""
        x, labels, t, noise = batch
        noised = self.diffusion.noised(x, t, noise)
        return self.diffusion.losses(model(noised, t, labels), x, noised, t, noise)


class Noised:
    """Adds to a micro-batch what is drawn for it: labels to drop, steps, noise.

    Outside of the network, so that they are part of what a pair must have in common.
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
    """Mean loss over held-out images, the same steps and noise at every evaluation.

    The steps are spread evenly over the forward process: drawn at random they would make more of
    the mean's noise than the images do.
    """

    def __init__(
        self,
        dataset: Dataset,
        diffusion: Diffusion,
        config: Training,
        context: Context,
        device: torch.device,
    ) -> None:
        self.dataset, self.config, self.context, self.device = dataset, config, context, device
        self.loss = HybridLoss(diffusion)
        there = len(dataset)  # type: ignore[arg-type]
        self.count = min(config.held_out, there)
        self.indices = [i * there // self.count for i in range(self.count)]
        source = generator(config.seed, "evaluation")
        places = torch.randperm(self.count, generator=source) + 0.5
        self.steps = (places * config.diffusion_steps / self.count).long()

    def __call__(self, model: nn.Module) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        size, world_size = self.config.eval_batch, self.context.world_size
        for start in range(0, self.count, size * world_size):
            own = range(start + self.context.rank * size, self.count)[:size]
            # All processes call the model equally often, as a sharded one needs: who has no image
            # left takes one that does not count.
            batch = [part.to(self.device) for part in self._batch(own or range(1))]
            squared, bits = (term[: len(own)] for term in self.loss.terms(model, batch))
            told = [squared.sum(), bits.sum(), torch.tensor(len(own))]
            sums += torch.stack([value.to(sums) for value in told])
        squared, bits, count = sum_over_ranks(sums).tolist()
        return {"loss": (squared + bits) / count, "mse": squared / count, "vb": bits / count}

    def _batch(self, places: range) -> Batch:
        drawn = []
        for place in places:
            # The posterior of the latents is sampled too.
            reseed(self.config.seed, "evaluation", place)
            x, label = self.dataset[self.indices[place]]
            drawn.append((x, label, self.steps[place], torch.randn_like(x)))
        return tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))


def _leave(
    context: Context,
    model: DiffusionTransformer,
    ema: ModelEmaV3 | None,
    autoencoder: str,
    diffusion_steps: int,
) -> None:
    """Write the weights, and what sampling has to have in common; called by all processes."""
    kept = model if ema is None else ema.module
    states = {
        "ema": gather_state_dict(kept.state_dict()),
        "model": gather_state_dict(model.state_dict()),
    }
    named = {part: official.to_official(model, state) for part, state in states.items()}
    made_with = {
        "network": asdict(model.network),
        "autoencoder": autoencoder,
        "diffusion_steps": diffusion_steps,
    }
    save_artifact(context, WEIGHTS, {**named, **made_with})
