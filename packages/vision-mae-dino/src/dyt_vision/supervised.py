"""Supervised classification with timm's training parts (CVPR 2025, Table 1; ICLR, Table 1).

The task ``dyt_vision.supervised:train``: AdamW or SGD, RandAugment, mixup and CutMix, random
erasing, label smoothing, stochastic depth, and an exponential moving average (EMA) of the weights,
which is what is evaluated. The recipe follows the authors' release, which follows ConvNeXt's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from dyt import alphas
from dyt_vision import image_data, models
from dyt_vision.config import Supervised
from dyt_vision.evaluation import Accuracy
from dyt_vision.transforms import evaluation_transform, training_transform
from matched.task import Context, Outcome
from matched.training import Learner, fit
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group

log = logging.getLogger("matched")


def train(context: Context, config: Supervised) -> Outcome:
    """Train and evaluate one model; metrics are top1 and top5 in percent, and loss."""
    with process_group(context) as device:
        data = load_data(context, config)
        run = partial(run_on_images, config, data)
        model, norms = models.build(config, data.classes, run)
        model.to(device)
        log.info("%s with %s in %d places", config.model, config.norm, len(norms))
        optimizer = make_optimizer(model, config)
        learner = make_learner(context, config, data, model, norms, optimizer, device)
        return fit(context, config, learner, device)


def load_data(context: Context, config: Supervised) -> image_data.ImageSplits:
    """Return the images that ``config`` names, with its augmentation."""
    return image_data.load(
        config,
        context.data.get(config.data),
        train=training_transform(config, rand_augment=config.rand_augment, erasing=config.erasing),
        held_out=evaluation_transform(config),
    )


def run_on_images(config: Supervised, data: image_data.ImageSplits, model: nn.Module) -> Tensor:
    """Run a classifier on augmented training images that depend on the seed alone."""
    dataset = training_set(config, data)
    images, _ = seeded_batch(dataset, models.CALIBRATION_IMAGES, config.seed, "calibration")
    logits: Tensor = model(images)
    return logits


def training_set(config: Supervised, data: image_data.ImageSplits) -> Dataset[Any]:
    """Return the training images, few of each class if the config says so."""
    if config.labels_per_class is None:
        return data.train
    return image_data.first_of_each_class(data.train, config.labels_per_class)


def make_learner(
    context: Context,
    config: Supervised,
    data: image_data.ImageSplits,
    model: nn.Module,
    norms: tuple[str, ...],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> Learner:
    """Return the loop's view of a classifier: its model, optimizer, data, loss and evaluation."""
    return Learner(
        model=model,
        optimizer=optimizer,
        dataset=training_set(config, data),
        loss=_make_loss(config),
        evaluate=Accuracy(data.held_out, config, context, device),
        selection_metric=("top1", "higher"),
        norms=norms,
        prepare=_make_mixup(config, data.classes),
        ema=_make_ema(model, config),
        alphas=alphas,
    )


def make_optimizer(model: nn.Module, config: Supervised) -> torch.optim.Optimizer:
    """Return AdamW or SGD; biases, norms, alpha and position embeddings are not decayed."""
    # timm's models name further parameters that are not decayed.
    not_decayed: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    # By keyword: the third positional parameter differs between timm's versions.
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=not_decayed)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _uses_mixup(config: Supervised) -> bool:
    return config.mixup > 0 or config.cutmix > 0


def _make_mixup(config: Supervised, classes: int) -> Any:
    """Return mixup and CutMix of a micro-batch, whose labels become smoothed and soft."""
    if not _uses_mixup(config):
        return lambda batch: batch
    mixup = Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch,
        mode="batch",
        label_smoothing=config.label_smoothing,
        num_classes=classes,
    )

    def prepare(batch: Any) -> Any:
        images, labels = batch
        if len(labels) % 2:
            raise ValueError(
                f"a micro-batch has {len(labels)} images, but mixup and CutMix need an even number "
                "because they mix pairs; change batch or micro_batch"
            )
        return mixup(images, labels)

    return prepare


def _make_loss(config: Supervised) -> Any:
    if _uses_mixup(config):
        criterion: nn.Module = SoftTargetCrossEntropy()
    elif config.label_smoothing > 0:
        criterion = LabelSmoothingCrossEntropy(config.label_smoothing)
    else:
        criterion = nn.CrossEntropyLoss()
    return lambda model, batch: criterion(model(batch[0]), batch[1])


def _make_ema(model: nn.Module, config: Supervised) -> ModelEmaV3 | None:
    """Return timm's EMA of the weights, or None without ``ema_decay``."""
    return None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)
