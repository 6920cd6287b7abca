"""Linear probing of DINO's features (ICLR 2025 submission, Table 2).

The task ``dyt_vision.probing:train``: a linear classifier on the features of the pretrained
teacher, which is frozen (Caron et al. 2021, Section 4.1).
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt import alphas
from dyt_vision import image_data, weights
from dyt_vision.config import Probing
from dyt_vision.dino_model import Backbone
from dyt_vision.evaluation import Accuracy
from dyt_vision.models import replace_norms
from dyt_vision.transforms import evaluation_transform, training_transform
from matched.task import Context, Outcome
from matched.training import Learner, fit, reseed
from matched.training.artifacts import PRETRAINING_DIVERGED, has_diverged
from matched.training.distributed import process_group

log = logging.getLogger("matched")

Names = tuple[str, ...]


def train(context: Context, config: Probing) -> Outcome:
    """Train and evaluate the linear layer; metrics are top1 and top5 in percent, and loss.

    If the pretraining diverged, the outcome says so and nothing is trained.

    Raises:
        ValueError: if no pretraining run is named, or its weights belong to another architecture.
    """
    if "pretrained" not in context.needs:
        raise ValueError('a probe needs a pretraining run under the name "pretrained"')
    pretraining = context.needs["pretrained"]
    if has_diverged(pretraining):
        return PRETRAINING_DIVERGED
    with process_group(context) as device:
        data = image_data.load(
            config,
            context.data.get(config.data),
            train=training_transform(config),
            held_out=evaluation_transform(config),
        )
        model, norms, inherited = build(config, pretraining, data.classes)
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
            alphas=alphas,
        )
        return fit(context, config, learner, device)


def build(config: Probing, pretraining: Path, classes: int) -> tuple[Probe, Names, Names]:
    """Return the probe of a run, the paths of its norm layers, and its pretrained tensors' names.

    Args:
        pretraining: directory of the DINO run.
    """
    backbone = Backbone(config)
    norms = replace_norms(backbone, config)
    teacher = weights.read_exported(pretraining, part="teacher")
    inherited = weights.load_state(backbone, teacher, "the pretrained network")
    reseed(config.seed, "weights")
    probe = Probe(backbone, config, classes)
    return probe, _in_backbone(norms), _in_backbone(inherited)


def _in_backbone(names: Names) -> Names:
    return tuple(f"backbone.{name}" for name in names)


class Probe(nn.Module):
    """A frozen backbone and a linear layer on its features."""

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
        """Return class tokens of the last blocks and, with ``pool``, the mean patch token.

        Shapes: (B, 3, H, W) → (B, C · (blocks + pool)).
        """
        with torch.no_grad():
            outputs = self.backbone.get_intermediate_layers(
                images, n=self.blocks, return_prefix_tokens=True, norm=True
            )
        parts = [prefix_tokens[:, 0] for _, prefix_tokens in outputs]
        if self.pool:
            last_patches, _ = outputs[-1]
            parts.append(last_patches.mean(dim=1))
        return torch.cat(parts, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))
