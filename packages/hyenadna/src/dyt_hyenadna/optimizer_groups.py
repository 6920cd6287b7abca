"""Optimizer groups of HyenaDNA: weight decay, no weight decay, and the filters' own options."""

from __future__ import annotations

from typing import Any

from torch import nn

FILTER = ".filter_fn.implicit_filter."
"""Part of the names of the filters' MLPs, frequencies included."""


def optimizer_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    filter_lr: float | None = None,
    official: bool = False,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer; frozen parameters are omitted.

    Exempt from weight decay are the embedding (and with it the tied output layer), parameters with
    fewer than two axes, so that α, γ and β are treated alike in every arm, and the MLPs of the
    filters, which also have their own learning rate.

    The official trainer goes by other rules: exempt are the backbone's names that end in "bias",
    its nn.LayerNorms, the embedding and the filters' weights. With LayerNorm the effect is the same
    but for the bias of a classifier's head, which decays. α and γ of DyT are not among the exempt
    and decay; and the filters' biases get the common learning rate, because the rule for biases
    overwrites their own options.

    Args:
        model: a language model or a classifier, converted or not.
        lr: learning rate.
        weight_decay: of the first group.
        filter_lr: learning rate of the filters; None for ``lr``, as in the official configs.
        official: apply the official rules.
    """
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    norms = {p for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    decayed, undecayed, filters = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.endswith("bias") and not name.startswith("head.")
        exempt = is_bias or parameter in norms if official else parameter.ndim < 2
        if FILTER in name and not (official and is_bias):
            filters.append(parameter)
        elif exempt or parameter in embeddings:
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": undecayed, "lr": lr, "weight_decay": 0.0},
        {"params": filters, "lr": lr if filter_lr is None else filter_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
