"""Linear probing of DINO's features (ICLR 2025 submission, Table 2).

The task ``dyt_vision.probing:train``: a linear classifier on what the pretrained teacher makes of
an image, the teacher fixed (Caron et al. 2021, Section 4.1).
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt_vision import images, weights
from dyt_vision.config import Probing
from dyt_vision.dino_model import Backbone
from dyt_vision.evaluation import Accuracy
from dyt_vision.models import replace_norms
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed
from matched.training.artifacts import has_diverged
from matched.training.distributed import process_group

log = logging.getLogger("matched")

Names = tuple[str, ...]


def train(context: Context, config: Probing) -> Outcome:
    """Train and evaluate the linear layer; metrics are top1 and top5 in percent, and loss.

    Where the pretraining diverged there is nothing to probe, and the outcome is that.

    Raises:
        ValueError: if the pretrained weights are those of another architecture.
    """
    if "pretrained" not in context.needs:
        raise ValueError('a probe needs a pretraining run under the name "pretrained"')
    start = context.needs["pretrained"]
    if has_diverged(start):
        return weights.NOTHING_TO_START_FROM
    with process_group(context) as device:
        data = images.load(config, context.data.get(config.data), train=images.augment(config))
        model, norms, inherited = build(config, start, data.classes)
        model.to(device)
        log.info("probe of a network with %s in %d places", config.norm, len(norms))
        learner = Learner(
            model=model,
            optimizer=torch.optim.SGD(
                model.linear.parameters(),
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            ),
            dataset=data.train,
            loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
            evaluate=Accuracy(data.held_out, config, context, device),
            selection_metric=("top1", "higher"),
            norms=norms,
            inherited=inherited,
        )
        return fit(context, config, learner, device)


def build(config: Probing, pretrained: Path, classes: int) -> tuple[Probe, Names, Names]:
    """The probe of a run, the paths of its norm layers, and the names of what was pretrained."""
    backbone = Backbone(config)
    paths = replace_norms(backbone, config)
    teacher = weights.exported(pretrained, part="teacher")
    names = weights.load_all(backbone, teacher, "the pretrained network")
    reseed(config.seed, "weights")
    norms, inherited = ([f"backbone.{name}" for name in found] for found in (paths, names))
    return Probe(backbone, config, classes), tuple(norms), tuple(inherited)


class Probe(nn.Module):
    """A fixed backbone and a linear layer on its features."""

    def __init__(self, backbone: Backbone, config: Probing, classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.blocks, self.pool = config.blocks, config.pool
        self.linear = nn.Linear(backbone.embed_dim * (config.blocks + config.pool), classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def train(self, mode: bool = True) -> Probe:
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → class tokens of the last blocks and the mean patch, (B, features)."""
        with torch.no_grad():
            found = self.backbone.get_intermediate_layers(
                images, n=self.blocks, return_prefix_tokens=True, norm=True
            )
        parts = [tokens[:, 0] for _, tokens in found]
        if self.pool:
            parts.append(found[-1][0].mean(dim=1))
        return torch.cat(parts, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))
