"""Supervised classification on timm's training parts (CVPR 2025, Table 1; ICLR, Table 1).

The task ``dyt_vision.supervised:train``: AdamW or SGD, RandAugment, mixup and CutMix, random
erasing, label smoothing, stochastic depth, and an average of the weights that is what is
evaluated. Recipe after the authors' release, which follows ConvNeXt's.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import Dataset

from dyt_vision import images, models
from dyt_vision.config import Supervised
from dyt_vision.evaluation import Accuracy
from matched.task import Context, Outcome
from matched.training import Learner, fit
from matched.training.distributed import process_group

log = logging.getLogger("matched")


def train(context: Context, config: Supervised) -> Outcome:
    """Train and evaluate one model; metrics are top1 and top5 in percent, and loss."""
    with process_group(context) as device:
        data = load(context, config)
        model, norms = models.build(config, data.classes)
        model.to(device)
        log.info("%s with %s in %d places", config.model, config.norm, len(norms))
        learner = classifier(context, config, data, model, norms, optimizer(model, config), device)
        return fit(context, config, learner, device)


def load(context: Context, config: Supervised) -> images.Images:
    """The config's images, augmented as it says."""
    transform = images.augment(config, rand_augment=config.rand_augment, erasing=config.erasing)
    return images.load(config, context.data.get(config.data), train=transform)


def classifier(
    context: Context,
    config: Supervised,
    data: images.Images,
    model: nn.Module,
    norms: tuple[str, ...],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> Learner:
    """What the loop needs to train a classifier, once there are a model and an optimizer."""
    dataset: Dataset = data.train
    if config.labels_per_class is not None:
        dataset = images.first_of_each_class(dataset, config.labels_per_class)
    return Learner(
        model=model,
        optimizer=optimizer,
        dataset=dataset,
        loss=_loss(config),
        evaluate=Accuracy(data.held_out, config, context, device),
        selection_metric=("top1", "higher"),
        norms=norms,
        prepare=_prepare(config, data.classes),
        ema=_ema(model, config),
    )


def optimizer(model: nn.Module, config: Supervised) -> torch.optim.Optimizer:
    """Parameters of one dimension (biases, norms, alpha) and position tokens are not decayed."""
    skipped = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    # By name: what stands in third place differs between timm's versions.
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=skipped)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _mixes(config: Supervised) -> bool:
    return config.mixup > 0 or config.cutmix > 0


def _prepare(config: Supervised, classes: int) -> Any:
    """Mixup and CutMix of a micro-batch, with the smoothed soft labels that they give."""
    if not _mixes(config):
        return lambda batch: batch
    mix = Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch,
        mode="batch",
        label_smoothing=config.label_smoothing,
        num_classes=classes,
    )

    def mixed(batch: Any) -> Any:
        images, labels = batch
        if len(labels) % 2:
            raise ValueError(
                f"mixup and CutMix mix pairs, but a micro-batch has {len(labels)} images; "
                "choose batch and micro_batch so that it has an even number"
            )
        return mix(images, labels)

    return mixed


def _loss(config: Supervised) -> Any:
    if _mixes(config):
        criterion: nn.Module = SoftTargetCrossEntropy()
    elif config.label_smoothing > 0:
        criterion = LabelSmoothingCrossEntropy(config.label_smoothing)
    else:
        criterion = nn.CrossEntropyLoss()
    return lambda model, batch: criterion(model(batch[0]), batch[1])


def _ema(model: nn.Module, config: Supervised) -> ModelEmaV3 | None:
    return None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)
