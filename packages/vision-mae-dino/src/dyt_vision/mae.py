"""Pretraining of masked autoencoders (CVPR 2025, Table 2; ICLR, Table 2).

The task ``dyt_vision.mae:pretrain``. It is evaluated by the reconstruction of held-out images
under masks that do not change, and leaves pictures of it and the weights for fine-tuning.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from dyt_vision import images, models, pictures, weights
from dyt_vision.config import MAE
from dyt_vision.evaluation import Share
from dyt_vision.mae_model import EPSILON, MaskedAutoencoder
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed, sum_over_ranks
from matched.training.distributed import process_group
from matched.training.seeding import generator

log = logging.getLogger("matched")
PICTURE = "reconstructions.png"
SHOWN = 8
"""Held-out images in the picture."""


def pretrain(context: Context, config: MAE) -> Outcome:
    """Pretrain one autoencoder; the metric is ``loss``, of the held-out images."""
    with process_group(context) as device:
        data = images.load(config, context.data.get(config.data), train=images.augment(config))
        model, norms = build(config)
        model.to(device)
        log.info("masked autoencoder with %s in %d places", config.norm, len(norms))
        learner = Learner(
            model=model,
            optimizer=optimizer(model, config),
            dataset=data.train,
            loss=lambda model, batch: model(*batch)[0],
            evaluate=Reconstruction(data.held_out, config, context, device),
            selection_metric=("loss", "lower"),
            norms=norms,
            prepare=with_noise(config),
        )
        outcome = fit(context, config, learner, device)
        weights.export(context, model=model.state_dict())
        return outcome


def build(config: MAE) -> tuple[MaskedAutoencoder, tuple[str, ...]]:
    """The autoencoder of a run, and the paths of its norm layers."""
    reseed(config.seed, "weights")
    model = MaskedAutoencoder(config)
    return model, models.replace_norms(model, config)


def optimizer(model: nn.Module, config: MAE) -> torch.optim.AdamW:
    """AdamW; parameters of one dimension (biases, norms, alpha) are not decayed."""
    groups = param_groups_weight_decay(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def with_noise(config: MAE) -> Any:
    """Adds to a micro-batch the noise that decides which patches are shown.

    Drawn outside of the model, so that the masks are part of what a pair must have in common.
    """
    patches = _patches(config)

    def prepared(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        image = batch[0]
        return image, torch.rand(len(image), patches, device=image.device)

    return prepared


def _patches(config: MAE) -> int:
    return (config.image_size // config.patch_size) ** 2


class Reconstruction:
    """Mean loss over the held-out images, each under a mask of its own, and a picture of some."""

    def __init__(self, dataset: Any, config: MAE, context: Context, device: torch.device) -> None:
        self.share = Share(dataset, config, context, device)
        self.config, self.context, self.device = config, context, device
        source = generator(config.seed, "evaluation")
        noise = torch.rand(len(dataset), _patches(config), generator=source)
        self.noise = noise[self.share.indices]

    def __call__(self, model: MaskedAutoencoder) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        left, first = self.share.own, None
        noises = self.noise.split(self.config.eval_batch)
        for (image, _), noise in zip(self.share.loader, noises, strict=True):
            count = min(left, len(image))
            left -= count
            mine = slice(max(count, 1))  # all call the model, with an image that may not count
            image, noise = image[mine].to(self.device), noise[mine].to(self.device)
            first = (image[:SHOWN], noise[:SHOWN]) if first is None else first
            loss, _, _ = model(image, noise)
            sums += torch.tensor([loss.item() * count, count], dtype=torch.float64).to(sums)
        total, count = sum_over_ranks(sums).tolist()
        self._draw(model, *first)  # by all processes: where it is sharded, all have to call it
        return {"loss": total / count}

    def _draw(self, model: MaskedAutoencoder, image: Tensor, noise: Tensor) -> None:
        _, prediction, mask = model(image, noise)
        rows = reconstructions(model, image, prediction.float(), mask.float())
        pictures.save(self.context, PICTURE, images.Pixels(self.config)(rows))


def reconstructions(
    model: MaskedAutoencoder, image: Tensor, prediction: Tensor, mask: Tensor
) -> Tensor:
    """Rows of (what is shown, what is made of it, the original), (B, 3, 3, H, W), normalised.

    Where patches were normalised by their own statistics, the true ones are put back: the
    prediction does not tell them, and the picture shows more than the network knows.
    """
    original = model.patchify(image)
    if model.norm_pix:
        mean, variance = model.statistics(image)
        prediction = prediction * (variance + EPSILON).sqrt() + mean
    hidden = mask[:, :, None]
    shown = original * (1 - hidden)
    filled = shown + prediction * hidden
    return torch.stack([model.unpatchify(p) for p in (shown, filled, original)], dim=1)
