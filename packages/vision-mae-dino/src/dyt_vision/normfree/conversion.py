"""Removal of a model's norm layers, compensated by one of the methods."""

from __future__ import annotations

from torch import nn

from dyt_vision.normfree import fixup, sigma_reparam, skipinit
from dyt_vision.normfree.block_model import BlockModel
from dyt_vision.normfree.method import NormFree

_INSTALL = {
    "fixup": fixup.install,
    "skipinit": skipinit.install,
    "sigma_reparam": sigma_reparam.install,
}


def apply(model: nn.Module, method: NormFree) -> tuple[str, ...]:
    """Remove every norm layer of a model and apply a method instead.

    The model's current weights are the starting point and no random number is drawn. Weights are
    scaled or set to zero (Fixup), move to "<module>.parametrizations.weight.original" (σReparam),
    or stay as they are (SkipInit).

    Args:
        model: any module that contains timm ``vision_transformer.Block``s; changed in place.
        method: the method to apply.

    Returns:
        The sorted paths of the removed norm layers and of the added modules with scalars. All
        parameters and buffers that the method adds are below these.

    Raises:
        ValueError: if ``method`` is not a NormFree, the model has no timm Block or no norm layer,
            or a block is not timm's plain one (LayerScale, qk_norm, another attention or MLP). The
            model is not changed then.
    """
    if not isinstance(method, NormFree):
        raise ValueError(
            f"method is {method!r}; expected a NormFree, such as NormFree(method='fixup')"
        )
    blocks = BlockModel.inspect(model)
    for path in blocks.norms:
        blocks.put(path, nn.Identity())
    added = _INSTALL[method.method](blocks)
    return tuple(sorted({*blocks.norms, *added}))
