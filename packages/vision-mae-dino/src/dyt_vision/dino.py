"""Pretraining by self-distillation, DINO (CVPR 2025, Table 2; ICLR, Table 2).

The task ``dyt_vision.dino:pretrain``. The metric is the accuracy of a k-NN classifier on the
teacher's features; the run writes pictures of the teacher's attention and the weights of both
networks. The loss is in ``dino_loss``, the teacher's update in ``dino_teacher``.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from dyt import alphas
from dyt_vision import image_data, models, pictures, weights
from dyt_vision.config import DINO
from dyt_vision.dino_crops import MultiCropTransform
from dyt_vision.dino_evaluation import PICTURE, KNNEvaluation
from dyt_vision.dino_loss import teacher_temperature
from dyt_vision.dino_model import Backbone, DINOHead, MultiCropWrapper
from dyt_vision.dino_teacher import SelfDistillation
from dyt_vision.transforms import evaluation_transform
from matched.task import Context, Outcome
from matched.training import Hooks, Learner, StepInfo, fit, reseed
from matched.training.batches import seeded_batch
from matched.training.distributed import process_group

log = logging.getLogger("matched")


def pretrain(context: Context, config: DINO) -> Outcome:
    """Pretrain one network; the metric is ``knn``, the teacher's top-1 accuracy in percent."""
    with process_group(context) as device:
        data = image_data.load(
            config,
            context.data.get(config.data),
            train=MultiCropTransform(config),
            held_out=evaluation_transform(config),
        )
        model, norms = build(config, partial(run_on_crops, data.train, config))
        model.to(device)
        log.info("DINO with %s in %d places", config.norm, len(norms))
        optimizer = make_optimizer(model, config)
        schedules = Schedules(model, optimizer, config)
        learner = Learner(
            model=model,
            optimizer=optimizer,
            dataset=data.train,
            loss=lambda model, crops: model(crops, schedules.teacher_temperature),
            evaluate=KNNEvaluation(data, config, context, device),
            selection_metric=("knn", "higher"),
            norms=norms,
            prepare=lambda batch: batch[0],
            hooks=schedules,
            alphas=alphas,
        )
        outcome = fit(context, config, learner, device)
        weights.export(
            context,
            student=model.student.state_dict(),
            teacher=model.teacher.state_dict(),
        )
        return pictures.with_picture(outcome, context, PICTURE)


def build(
    config: DINO, calibrate: models.Calibrate | None = None
) -> tuple[SelfDistillation, tuple[str, ...]]:
    """Return student and teacher with equal weights, and the paths of both networks' norms.

    Args:
        calibrate: as in ``models.replace_norms``, for the student.
    """
    reseed(config.seed, "weights")
    backbone = Backbone(config, config.drop_path, config.init_std)
    student = MultiCropWrapper(backbone, DINOHead(config))
    norms = models.replace_norms(student, config, calibrate)
    both = [f"{network}.{path}" for network in ("student", "teacher") for path in norms]
    return SelfDistillation(config, student), tuple(both)


def run_on_crops(dataset: Dataset[Any], config: DINO, student: nn.Module) -> Any:
    """Run a student on crops of training images that depend on the seed alone."""
    crops, _ = seeded_batch(dataset, models.CALIBRATION_IMAGES, config.seed, "calibration")
    return student(crops)


def make_optimizer(model: SelfDistillation, config: DINO) -> torch.optim.AdamW:
    """Return AdamW over the student; biases and parameters of one dimension are not decayed.

    ``Schedules`` changes the weight decay of the first group.
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


class Schedules(Hooks):
    """DINO's schedules, except for the learning rate (Caron et al. 2021, Section 3.2).

    They are the teacher's temperature and momentum, the weight decay and the frozen last layer. The
    class also clips the gradients, because DINO clips each parameter on its own.
    """

    def __init__(
        self, model: SelfDistillation, optimizer: torch.optim.Optimizer, config: DINO
    ) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        self.teacher_temperature = config.teacher_temperature

    def before_step(self, step_info: StepInfo) -> None:
        config = self.config
        self.teacher_temperature = teacher_temperature(step_info.epoch, config)
        decay = cosine(config.weight_decay, config.final_weight_decay, step_info.progress)
        self.optimizer.param_groups[0]["weight_decay"] = decay

    def on_gradients(self, step_info: StepInfo) -> None:
        if self.config.clip_each is not None:
            clip_each(list(self.model.student.parameters()), self.config.clip_each)
        if step_info.epoch < self.config.freeze_last_layer:
            for parameter in self.model.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, step_info: StepInfo) -> None:
        momentum = cosine(self.config.teacher_momentum, 1.0, step_info.progress)
        self.model.update_teacher(momentum)
        self.model.update_center()


def cosine(start: float, end: float, progress: float) -> float:
    """Return the value of half a cosine from ``start`` to ``end`` at ``progress`` (0 to 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def clip_each(parameters: list[nn.Parameter], max_norm: float) -> None:
    """Clip the gradient of each parameter to its own norm, as the official release does."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, norm in zip(gradients, torch._foreach_norm(gradients), strict=True):
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
