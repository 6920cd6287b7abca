"""`param_groups`: optimizer groups that treat DyT's parameters like those of a norm layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from dyt.norm_detection import is_norm_like
from dyt.norm_survey import DYNAMIC


def param_groups(
    model: nn.Module, *, weight_decay: float, alpha_lr: float | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer, without weight decay of α, s, γ and β.

    Also exempt are other norm layers, all parameters with fewer than two axes, and the names in
    timm's `model.no_weight_decay()`. Rules of other libraries differ: timm exempts one-dimensional
    parameters, which covers DyT, but transformers' Trainer exempts nn.LayerNorm by its class and
    norms by some names, and would decay γ and α of a converted network.

    Use the groups with `torch.optim.AdamW(groups, lr=lr)`, with timm's
    `create_optimizer_v2(groups, ...)`, or with transformers'
    `Trainer(model, args, optimizers=(optimizer, None))`.

    Args:
        model: the network, which DistributedDataParallel, DataParallel or torch.compile may wrap;
            frozen parameters are omitted.
        weight_decay: the weight decay of all other parameters.
        alpha_lr: the learning rate of α and s, as a separate group; None for the optimizer's.
    """
    model = _without_wrappers(model)
    exempt = set(getattr(model, "no_weight_decay", set)())
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, DYNAMIC) or is_norm_like(module)
        for parameter in module.parameters(recurse=False)
    }
    scalars = {
        parameter
        for module in model.modules()
        if isinstance(module, DYNAMIC)
        for parameter in (module.alpha, module.shift)
        if parameter is not None
    }
    decayed, undecayed, alphas = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter in scalars and alpha_lr is not None:
            alphas.append(parameter)
        elif parameter.ndim < 2 or parameter in norms or name in exempt:
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
        {"params": alphas, "weight_decay": 0.0, "lr": alpha_lr},
    ]
    return [group for group in groups if group["params"]]


def _without_wrappers(model: nn.Module) -> nn.Module:
    """Return the network itself: wrappers prefix the names that its `no_weight_decay` lists."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model
