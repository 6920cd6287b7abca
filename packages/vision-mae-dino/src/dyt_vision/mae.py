"""Pretraining of masked autoencoders, MAE (CVPR 2025, Table 2; ICLR, Table 2).

The task ``dyt_vision.mae:pretrain``. The metric is the reconstruction loss of held-out images
under fixed masks; the run writes pictures of reconstructions and the weights for fine-tuning. The
network and its loss are in ``mae_model``.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.utils.data import Dataset

from dyt import alphas
from dyt_vision import image_data, models, pictures, weights
from dyt_vision.config import MAE
from dyt_vision.mae_model import EPSILON, MaskedAutoencoder
from dyt_vision.transforms import Denormalize, evaluation_transform, training_transform
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed, sum_over_ranks
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group
from matched.training.evaluation import RankSubset
from matched.training.seeding import generator

log = logging.getLogger("matched")
PICTURE = "reconstructions.png"
PICTURE_IMAGES = 8
"""Number of held-out images in the picture."""


def pretrain(context: Context, config: MAE) -> Outcome:
    """Pretrain one autoencoder; the metric is ``loss``, of the held-out images."""
    with process_group(context) as device:
        data = image_data.load(
            config,
            context.data.get(config.data),
            train=training_transform(config),
            held_out=evaluation_transform(config),
        )
        model, norms = build(config, partial(run_on_images, data.train, config))
        model.to(device)
        log.info("masked autoencoder with %s in %d places", config.norm, len(norms))
        learner = Learner(
            model=model,
            optimizer=make_optimizer(model, config),
            dataset=data.train,
            loss=lambda model, batch: model(*batch)[0],
            evaluate=ReconstructionEvaluation(data.held_out, config, context, device),
            selection_metric=("loss", "lower"),
            norms=norms,
            prepare=draw_mask_noise(config),
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
        weights.export(context, model=model.state_dict())
        return pictures.with_picture(outcome, context, PICTURE)


def build(
    config: MAE, calibrate: models.Calibrate | None = None
) -> tuple[MaskedAutoencoder, tuple[str, ...]]:
    """Return the autoencoder of a run, and the paths of its norm layers.

    Args:
        calibrate: as in ``models.replace_norms``.
    """
    reseed(config.seed, "weights")
    model = MaskedAutoencoder(config)
    return model, models.replace_norms(model, config, calibrate)


def run_on_images(dataset: Dataset[Any], config: MAE, model: nn.Module) -> Any:
    """Run an autoencoder on training images and masks that depend on the seed alone."""
    batch = seeded_batch(dataset, models.CALIBRATION_IMAGES, config.seed, "calibration")
    reseed(config.seed, "calibration", "masks")
    return model(*draw_mask_noise(config)(batch))


def make_optimizer(model: nn.Module, config: MAE) -> torch.optim.AdamW:
    """Return AdamW; parameters of one dimension (biases, norms, alpha) are not decayed."""
    groups = param_groups_weight_decay(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def draw_mask_noise(config: MAE) -> Any:
    """Return a ``prepare`` function: (images, labels) → (images, noise that determines the masks).

    The noise is drawn outside of the model so that the masks are part of the batch's fingerprint,
    which both arms of a pair must share.
    """
    patches = _num_patches(config)

    def prepare(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        image = batch[0]
        return image, torch.rand(len(image), patches, device=image.device)

    return prepare


def _num_patches(config: MAE) -> int:
    return (config.image_size // config.patch_size) ** 2


class ReconstructionEvaluation:
    """Mean loss over the held-out images, each with its own fixed mask, and a picture."""

    def __init__(self, dataset: Any, config: MAE, context: Context, device: torch.device) -> None:
        self.subset = RankSubset(dataset, config.eval_batch, context, device)
        self.config, self.context, self.device = config, context, device
        source = generator(config.seed, "evaluation")
        noise = torch.rand(len(dataset), _num_patches(config), generator=source)
        self.noise = noise[self.subset.indices]

    def __call__(self, model: MaskedAutoencoder) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        remaining, first = self.subset.count, None
        noises = self.noise.split(self.config.eval_batch)
        for (image, _), noise in zip(self.subset.loader, noises, strict=True):
            count = min(remaining, len(image))
            remaining -= count
            # At least one image, even if it does not count: all processes call the model.
            used = slice(max(count, 1))
            image, noise = image[used].to(self.device), noise[used].to(self.device)
            first = (image[:PICTURE_IMAGES], noise[:PICTURE_IMAGES]) if first is None else first
            loss, _, _ = model(image, noise)
            sums += torch.tensor([loss.item() * count, count], dtype=torch.float64).to(sums)
        total, count = sum_over_ranks(sums).tolist()
        assert first is not None, "every process has an image"
        self._save_picture(model, *first)  # on all processes, which a sharded model requires
        return {"loss": total / count}

    def _save_picture(self, model: MaskedAutoencoder, image: Tensor, noise: Tensor) -> None:
        _, prediction, mask = model(image, noise)
        rows = reconstruction_rows(model, image, prediction.float(), mask.float())
        pictures.save(self.context, PICTURE, Denormalize(self.config)(rows))


def reconstruction_rows(
    model: MaskedAutoencoder, image: Tensor, prediction: Tensor, mask: Tensor
) -> Tensor:
    """Return rows of (masked, reconstructed, original), (B, 3, 3, H, W), normalized.

    With ``norm_pix`` the true mean and variance of each patch are restored: the prediction does
    not contain them, so the picture shows more than the network predicts.

    Args:
        image: (B, 3, H, W).
        prediction: (B, N, 3·P²).
        mask: (B, N), 1 where hidden.
    """
    original = model.patchify(image)
    if model.norm_pix:
        mean, variance = model.statistics(image)
        prediction = prediction * (variance + EPSILON).sqrt() + mean
    hidden = mask[:, :, None]
    masked = original * (1 - hidden)
    reconstructed = masked + prediction * hidden
    return torch.stack([model.unpatchify(p) for p in (masked, reconstructed, original)], dim=1)
