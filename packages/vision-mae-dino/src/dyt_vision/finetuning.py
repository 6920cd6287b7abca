"""Fine-tuning of a pretrained ViT with layer-wise learning rates (CVPR 2025, Table 2).

The task ``dyt_vision.finetuning:train``, for both MAE and DINO. Settings follow He et al. 2022,
Table 9, and the official release of MAE: average pooling of the patch tokens, a new norm after it
and a new head; all weights are trained.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dyt import Norm
from dyt_vision import models, supervised, weights
from dyt_vision.config import FineTuning
from dyt_vision.mae_model import EPSILON
from matched.task import Context, Outcome
from matched.training import fit, reseed
from matched.training.artifacts import PRETRAINING_DIVERGED, has_diverged
from matched.training.distributed import process_group

log = logging.getLogger("matched")
HEAD_STD = 2e-5
"""Standard deviation of the new head's weights: so small that the first gradients are those of a
classifier that predicts the mean."""


def train(context: Context, config: FineTuning) -> Outcome:
    """Fine-tune and evaluate; metrics are top1 and top5 in percent, and loss.

    If the pretraining diverged, the outcome says so and nothing is trained.

    Raises:
        ValueError: if the pretrained weights belong to another architecture.
    """
    pretraining = context.needs.get("pretrained")
    if pretraining is not None and has_diverged(pretraining):
        return PRETRAINING_DIVERGED
    with process_group(context) as device:
        data = supervised.load_data(context, config)
        run = partial(supervised.run_on_images, config, data)
        inherited: tuple[str, ...] = ()
        if pretraining is None:
            model, norms = build(config, data.classes, run)
        else:
            model, norms = build(config, data.classes)
            inherited = weights.load_encoder(model, weights.read_exported(pretraining))
            calibrate_pooled_norm(model, config, run)
        model.to(device)
        log.info("%s with %s in %d places", config.model, config.norm, len(norms))
        optimizer = layerwise_optimizer(model, config)
        learner = supervised.make_learner(context, config, data, model, norms, optimizer, device)
        return fit(context, config, replace(learner, inherited=inherited), device)


def build(
    config: FineTuning, classes: int, calibrate: models.Calibrate | None = None
) -> tuple[VisionTransformer, tuple[str, ...]]:
    """Return the classifier of a run with a new head, and the paths of its norm layers.

    Args:
        calibrate: as in ``models.replace_norms``.

    Raises:
        ValueError: if the model is not a ViT that pools its patch tokens.
    """
    model = models.create(config, classes)
    if not isinstance(model, VisionTransformer) or not isinstance(model.fc_norm, nn.LayerNorm):
        raise ValueError(
            f"{config.model} with {dict(config.model_args)} cannot be fine-tuned; expected a timm "
            "ViT with model_args=(('global_pool', 'avg'),), which normalizes after pooling"
        )
    # Before the norms are replaced: Fixup sets the head to 0, and σReparam reparametrizes it.
    reset_head(model, config.seed)
    return model, models.replace_norms(model, config, calibrate)


def calibrate_pooled_norm(
    model: VisionTransformer, config: FineTuning, calibrate: models.Calibrate
) -> None:
    """Fit α of the layer after the pooling, which no pretrained network has, if it is calibrated.

    All other layers have α of the pretrained network.
    """
    if isinstance(config.norm, Norm) and config.norm.calibrated:
        model.fc_norm = nn.LayerNorm(model.num_features, eps=EPSILON)
        models.replace_norms(model, config, calibrate)  # there is no other LayerNorm


def reset_head(model: VisionTransformer, seed: int) -> None:
    """Give the classification layer small weights and zero bias, as the official release does."""
    reseed(seed, "weights", "head")
    head = model.head
    assert isinstance(head, nn.Linear), "models.create gives every classifier one"
    nn.init.trunc_normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)


def layerwise_optimizer(model: VisionTransformer, config: FineTuning) -> torch.optim.AdamW:
    """Return AdamW whose learning rate shrinks by ``layer_decay`` from each block to the previous.

    The head and the last norm have ``lr``, the last block ``lr · layer_decay``, and the patch
    embedding ``lr · layer_decay^(depth + 1)`` (Clark et al. 2020, ELECTRA; He et al. 2022).
    Parameters of one dimension and position tokens are not decayed.
    """
    last = len(model.blocks) + 1
    not_decayed = model.no_weight_decay()
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and name not in not_decayed
        groups.setdefault((_layer_index(name, last), decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr * config.layer_decay ** (last - layer),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (layer, decayed), parameters in groups.items()
        ],
        betas=config.betas,
    )


def _layer_index(name: str, last: int) -> int:
    """Return 0 for parameters before the blocks, 1 + block number in them, ``last`` after them."""
    first, *rest = name.split(".")
    if first == "blocks":
        return int(rest[0]) + 1
    return 0 if first in ("cls_token", "pos_embed", "patch_embed") else last
