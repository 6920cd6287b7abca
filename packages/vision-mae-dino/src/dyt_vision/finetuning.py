"""Fine-tuning of a pretrained ViT with layer-wise learning rates (CVPR 2025, Table 2).

The task ``dyt_vision.finetuning:train``, for MAE and DINO alike. Settings after He et al. 2022,
Table 9, and the official release of MAE: average pooling of the patch tokens, a new norm after it
and a new head, all weights trained.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dyt_vision import models, supervised, weights
from dyt_vision.config import FineTuning
from matched.task import Context, Outcome
from matched.training import fit, reseed
from matched.training.artifacts import has_diverged
from matched.training.distributed import process_group

log = logging.getLogger("matched")
HEAD_STD = 2e-5
"""Of the new head's weights: so small that the first gradients are those of a mean classifier."""


def train(context: Context, config: FineTuning) -> Outcome:
    """Fine-tune and evaluate; metrics are top1 and top5 in percent, and loss.

    Where the pretraining diverged there is nothing to start from, and the outcome is that.

    Raises:
        ValueError: if the pretrained weights are those of another architecture.
    """
    start = context.needs.get("pretrained")
    if start is not None and has_diverged(start):
        return weights.NOTHING_TO_START_FROM
    with process_group(context) as device:
        data = supervised.load(context, config)
        model, norms = build(config, data.classes)
        pretrained = None if start is None else weights.exported(start)
        inherited = () if pretrained is None else weights.start_from(model, pretrained)
        model.to(device)
        log.info("%s with %s in %d places", config.model, config.norm, len(norms))
        optimizer = layer_wise(model, config)
        learner = supervised.classifier(context, config, data, model, norms, optimizer, device)
        return fit(context, config, replace(learner, inherited=inherited), device)


def build(config: FineTuning, classes: int) -> tuple[VisionTransformer, tuple[str, ...]]:
    """The classifier of a run with a new head, and the paths of its norm layers.

    Raises:
        ValueError: if the model is no ViT that pools its patch tokens.
    """
    model = models.create(config, classes)
    if not isinstance(model, VisionTransformer) or not isinstance(model.fc_norm, nn.LayerNorm):
        raise ValueError(
            f"{config.model} with {dict(config.model_args)} is not fine-tuned here: expected one "
            "of timm's ViTs with the model_args (('global_pool', 'avg'),), which normalises after "
            "pooling"
        )
    renew_head(model, config.seed)  # before Fixup, which sets it to 0, and σReparam, which owns it
    return model, models.replace_norms(model, config)


def renew_head(model: VisionTransformer, seed: int) -> None:
    """Give the classification layer small weights and no bias, as the official release does."""
    reseed(seed, "weights", "head")
    nn.init.trunc_normal_(model.head.weight, std=HEAD_STD)
    nn.init.zeros_(model.head.bias)


def layer_wise(model: VisionTransformer, config: FineTuning) -> torch.optim.AdamW:
    """AdamW whose learning rate shrinks by ``layer_decay`` from each block to the one before.

    The head and the last norm have ``lr``, the last block ``lr · layer_decay``, and the patch
    embedding ``lr · layer_decay^(depth + 1)`` (Clark et al. 2020, ELECTRA; He et al. 2022).
    Parameters of one dimension and position tokens are not decayed.
    """
    last = len(model.blocks) + 1
    undecayed = model.no_weight_decay()
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in undecayed
        groups.setdefault((_layer(name, last), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr * config.layer_decay ** (last - layer),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (layer, decays), parameters in groups.items()
        ],
        betas=config.betas,
    )


def _layer(name: str, last: int) -> int:
    """0 for what comes before the blocks, then the block's number from 1, ``last`` for the rest."""
    first, *rest = name.split(".")
    if first == "blocks":
        return int(rest[0]) + 1
    return 0 if first in ("cls_token", "pos_embed", "patch_embed") else last
