"""Supervised classification on timm's training parts (CVPR 2025, Table 1; ICLR, Table 1).

The task ``dyt_vision.supervised:train``: AdamW, cosine schedule, RandAugment, mixup and CutMix,
random erasing, label smoothing, stochastic depth, and an average of the weights that is what is
evaluated. Recipe after the authors' release, which follows ConvNeXt's.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from dyt_vision import images, models
from dyt_vision.config import Supervised
from matched.training import Learner, fit, reseed, sum_over_ranks
from matched.training.distributed import process_group
from matched.worker import Context, Outcome

log = logging.getLogger("matched")


def train(context: Context, config: Supervised) -> Outcome:
    """Train and evaluate one model; metrics are top1 and top5 in percent, and loss."""
    with process_group(context) as device:
        data = images.load(config, context.data.get(config.data))
        model, norms = models.build(config, data.classes)
        model.to(device)
        log.info("%s with %s in %d places", config.model, config.norm, len(norms))
        evaluation = Evaluation(data.held_out, config, context, device)
        learner = Learner(
            model=model,
            optimizer=optimizer(model, config),
            dataset=data.train,
            loss=_loss(config),
            evaluate=evaluation,
            score=("top1", "higher"),
            norms=norms,
            prepare=_prepare(config, data.classes),
            average=_average(model, config),
        )
        return fit(context, config, learner, device)


def optimizer(model: nn.Module, config: Supervised) -> torch.optim.AdamW:
    """AdamW; parameters of one dimension (biases, norms, alpha) and position tokens not decayed."""
    skipped = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    # By name: what stands in third place differs between timm's versions.
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=skipped)
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


def _average(model: nn.Module, config: Supervised) -> ModelEmaV3 | None:
    return None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)


class Evaluation:
    """Top-1 and top-5 accuracy over the held-out images, each process taking its share.

    Shares that are one image short are filled up with an image that does not count: all processes
    call the model equally often, as they have to where it is sharded.
    """

    def __init__(
        self, dataset: Dataset, config: Supervised, context: Context, device: torch.device
    ) -> None:
        count = len(dataset)  # type: ignore[arg-type]
        own = range(context.rank, count, context.world)
        self.own = len(own)
        filled = [*own, *[0] * (-(-count // context.world) - self.own)]
        self.loader = DataLoader(
            Subset(dataset, filled),
            config.eval_batch,
            num_workers=context.loaders,
            pin_memory=device.type == "cuda",
        )
        self.device = device
        self.seed = config.seed

    def __call__(self, model: nn.Module) -> dict[str, float]:
        reseed(self.seed, "evaluation")
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        left = self.own
        for image, label in self.loader:
            image, label = image.to(self.device, non_blocking=True), label[:left].to(self.device)
            logits = model(image).float()[:left]
            left -= len(label)
            ranked = logits.topk(5, dim=1).indices == label[:, None]
            loss = F.cross_entropy(logits, label, reduction="sum")
            counts = [ranked[:, :1].sum(), ranked.sum(), loss, torch.tensor(len(label))]
            sums += torch.stack([c.to(self.device, torch.float64) for c in counts])
        top1, top5, loss, count = sum_over_ranks(sums).tolist()
        return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count}
