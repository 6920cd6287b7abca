"""Pretraining by self-distillation (CVPR 2025, Table 2; ICLR, Table 2).

The task ``dyt_vision.dino:pretrain``. It is evaluated by a k-NN classifier on the teacher's
features, and leaves pictures of the teacher's attention and the weights of both networks.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from dyt_vision import images, models, pictures, weights
from dyt_vision.config import DINO
from dyt_vision.dino_crops import Crops
from dyt_vision.dino_model import Backbone, Head, MultiCrop, SelfDistillation
from dyt_vision.evaluation import Share
from matched.task import Context, Outcome
from matched.training import (
    Hooks,
    Learner,
    StepInfo,
    all_gather_objects,
    fit,
    reseed,
    sum_over_ranks,
)
from matched.training.distributed import process_group
from matched.training.seeding import generator

log = logging.getLogger("matched")
PICTURE = "attention.png"
SHOWN = 6
"""Held-out images in the picture."""
VOTE_TEMPERATURE = 0.07
"""Of the k-NN classifier's votes (Caron et al. 2021, Section 4.1, after Wu et al. 2018)."""


def pretrain(context: Context, config: DINO) -> Outcome:
    """Pretrain one network; the metric is ``knn``, the teacher's top-1 accuracy in percent."""
    with process_group(context) as device:
        data = images.load(config, context.data.get(config.data), train=Crops(config))
        model, norms = build(config)
        model.to(device)
        log.info("DINO with %s in %d places", config.norm, len(norms))
        adamw = optimizer(model, config)
        schedule = Schedule(model, adamw, config)
        learner = Learner(
            model=model,
            optimizer=adamw,
            dataset=data.train,
            loss=lambda model, crops: model(crops, schedule.teacher_temperature),
            evaluate=Neighbours(data, config, context, device),
            selection_metric=("knn", "higher"),
            norms=norms,
            prepare=lambda batch: batch[0],
            hooks=schedule,
        )
        outcome = fit(context, config, learner, device)
        weights.export(
            context,
            student=model.student.state_dict(),
            teacher=model.teacher.state_dict(),
        )
        return outcome


def build(config: DINO) -> tuple[SelfDistillation, tuple[str, ...]]:
    """Student and teacher of a run, with equal weights, and the paths of both's norm layers."""
    reseed(config.seed, "weights")
    student = MultiCrop(Backbone(config, config.drop_path, config.init_std), Head(config))
    norms = models.replace_norms(student, config)
    both = [f"{network}.{path}" for network in ("student", "teacher") for path in norms]
    return SelfDistillation(config, student), tuple(both)


def optimizer(model: SelfDistillation, config: DINO) -> torch.optim.AdamW:
    """AdamW over the student; biases and parameters of one dimension are not decayed.

    The first group is the one whose decay grows.
    """
    trained = [p for p in model.student.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
    )


class Schedule(Hooks):
    """What changes while DINO trains besides the learning rate (Caron et al. 2021, 3.2)."""

    def __init__(
        self, model: SelfDistillation, optimizer: torch.optim.Optimizer, config: DINO
    ) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        self.teacher_temperature = config.teacher_temperature

    def before_step(self, step_info: StepInfo) -> None:
        config = self.config
        self.teacher_temperature = temperature_at(step_info.epoch, config)
        decay = cosine(config.weight_decay, config.final_weight_decay, step_info.progress)
        self.optimizer.param_groups[0]["weight_decay"] = decay

    def on_gradients(self, step_info: StepInfo) -> None:
        if self.config.clip_each is not None:
            clip_each(list(self.model.student.parameters()), self.config.clip_each)
        if step_info.epoch < self.config.freeze_last_layer:
            for parameter in self.model.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, step_info: StepInfo) -> None:
        self.model.follow(cosine(self.config.teacher_momentum, 1.0, step_info.progress))


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def temperature_at(epoch: int, config: DINO) -> float:
    """The teacher's temperature: linear over the first epochs, then constant."""
    span = config.warmup_teacher_temperature_epochs
    if epoch >= span:
        return config.teacher_temperature
    first = config.warmup_teacher_temperature
    return first + (config.teacher_temperature - first) * epoch / max(1, span - 1)


def clip_each(parameters: list[nn.Parameter], most: float) -> None:
    """Shorten each parameter's own gradient to norm ``most``, as the official release does."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, norm in zip(gradients, torch._foreach_norm(gradients), strict=True):
        gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Unit vectors (N, C) of images, their labels (N,), and the first of the images themselves."""

    vectors: Tensor
    labels: Tensor
    first: Tensor


class Neighbours:
    """Accuracy of weighted k-NN on the teacher's class tokens, and a picture of its attention."""

    def __init__(
        self, data: images.Images, config: DINO, context: Context, device: torch.device
    ) -> None:
        self.config, self.context, self.device = config, context, device
        self.classes = data.classes
        self.bank = Share(_plain(data.train, config), config, context, device)
        self.held_out = Share(data.held_out, config, context, device)

    def __call__(self, model: SelfDistillation) -> dict[str, float]:
        reseed(self.config.seed, "evaluation")
        backbone = model.teacher.backbone
        own = self._features(backbone, self.bank)
        shares = all_gather_objects([own.vectors.cpu(), own.labels.cpu()])
        features, labels = (torch.cat(parts).to(self.device) for parts in zip(*shares, strict=True))
        held_out = self._features(backbone, self.held_out)
        mine, truth = held_out.vectors, held_out.labels
        right = sum(
            (self._vote(part, features, labels) == label).sum()
            for part, label in zip(mine.split(1024), truth.split(1024), strict=True)
        )
        counts = torch.stack([torch.as_tensor(right), torch.tensor(len(truth)).to(right)])
        right, count = sum_over_ranks(counts.double().to(self.device)).tolist()
        self._draw(backbone, held_out.first)
        return {"knn": 100 * right / count}

    def _features(self, backbone: Backbone, share: Share) -> Features:
        """What the backbone makes of this process's images."""
        vectors, labels, first = [], [], None
        for image, label in share.loader:
            image = image.to(self.device)
            first = image[:SHOWN] if first is None else first
            vectors.append(F.normalize(backbone(image).float(), dim=-1))
            labels.append(label.to(self.device))
        assert first is not None, "a share has one image at least"
        own = slice(share.own)
        return Features(vectors=torch.cat(vectors)[own], labels=torch.cat(labels)[own], first=first)

    def _vote(self, mine: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(mine.device.type, enabled=False):  # neighbours differ by little
            similarity = mine @ features.T
        similar, nearest = similarity.topk(min(self.config.neighbours, len(labels)))
        votes = torch.zeros(len(mine), self.classes, device=mine.device)
        votes.scatter_add_(1, labels[nearest], (similar / VOTE_TEMPERATURE).exp().to(votes))
        return votes.argmax(dim=1)

    def _draw(self, backbone: Backbone, image: Tensor) -> None:
        maps = backbone.last_attention(image)
        pixels = images.Pixels(self.config)(image)
        pictures.save(self.context, PICTURE, attention_rows(pixels, maps))


def attention_rows(pixels: Tensor, maps: Tensor) -> Tensor:
    """Rows of (image, the mean attention over it, each head's), (B, 2 + heads, 3, H, W)."""
    maps = torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1).float()
    maps = maps / maps.amax(dim=(-2, -1), keepdim=True)
    maps = F.interpolate(maps, size=pixels.shape[-2:], mode="nearest")
    return torch.cat([pixels[:, None], maps[:, :, None].expand(-1, -1, 3, -1, -1)], dim=1)


def _plain(dataset: Any, config: DINO) -> Dataset:
    """The bank: some of the training images, seen as the held-out ones are."""
    plain = copy.copy(dataset)
    plain.transform = images.centre(config)
    chosen = torch.randperm(len(plain), generator=generator(config.seed, "bank"))[: config.bank]
    return Subset(plain, chosen.tolist())
