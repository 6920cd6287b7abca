"""Takes the norm layers out of a model and lets one of the methods make up for them."""

from __future__ import annotations

from torch import nn

from dyt_vision.normfree import fixup, sigma_reparam, skipinit
from dyt_vision.normfree.method import NormFree
from dyt_vision.normfree.transformer import Transformer

_INSTALL = {
    "fixup": fixup.install,
    "skipinit": skipinit.install,
    "sigma_reparam": sigma_reparam.install,
}


def apply(model: nn.Module, method: NormFree) -> tuple[str, ...]:
    """Remove every norm layer of a model and apply a method in its place.

    It starts from the weights that the model has and draws no random number. Weights are only
    scaled or set to zero (Fixup), or move to "<module>.parametrizations.weight.original"
    (σReparam); SkipInit leaves them alone.

    Args:
        model: any module that holds timm ``vision_transformer.Block``s; changed in place.
        method: which method.

    Returns:
        The sorted paths of the norm layers that were removed and of the modules with scalars
        that were put in. All parameters and buffers that the method adds are below these.

    Raises:
        ValueError: not a NormFree; no timm Block in the model; no norm layer; or a block that is
            not timm's plain one (LayerScale, qk_norm, another attention or MLP). The model is
            then as it was.
    """
    if not isinstance(method, NormFree):
        raise ValueError(f"method = {method!r} is no NormFree, such as NormFree(method='fixup').")
    transformer = Transformer.read(model)
    for path in transformer.norms:
        transformer.put(path, nn.Identity())
    added = _INSTALL[method.method](transformer)
    return tuple(sorted({*transformer.norms, *added}))
