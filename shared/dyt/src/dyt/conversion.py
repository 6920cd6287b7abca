"""Swaps the norm layers of any network in place, and nothing else, and reports every swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dyt.detect import Anatomy, is_norm_like, read_listed, read_norm
from dyt.layers import DynamicErf, DynamicTanh
from dyt.norm import Norm, matches
from dyt.report import Kept, Replacement, Report, count
from dyt.standard import BatchNorm, ChannelsFirstLayerNorm

DYT = Norm()
DYNAMIC = (DynamicTanh, DynamicErf)


def convert(
    model: nn.Module,
    norm: Norm = DYT,
    *,
    also: type[nn.Module] | Iterable[type[nn.Module]] = (),
    skip: str | Iterable[str] = (),
    copy_affine: bool = False,
) -> Report:
    """Replace every LN and RMSNorm of `model`, in place (ICLR 2025 submission, Section 2.2).

    A norm layer is known by what it computes, so those of PyTorch, timm, transformers, diffusers,
    fairseq, torchaudio and mamba_ssm are all found, channels last or at axis 1. The new layer has
    γ and β where the old one had them: none for a LN without affine, no β for an RMSNorm. Its
    weight and bias *are* the old parameter objects, set to 1 and 0, so device, dtype,
    requires_grad, attributes, ties and optimizers that hold them stay good; α follows the weight.
    A layer without parameters takes device and dtype from the nearest enclosing module that has
    floating-point parameters, and is frozen if that is. No random number is drawn. Hooks on a
    replaced layer go with it.

    LN and BN are put in by the same rules (ICLR 2025 submission, Table 11), with torch's eps of
    1e-5 and momentum of 0.1: an nn.LayerNorm, or ChannelsFirstLayerNorm for axis 1, and a
    BatchNorm. A layer that is of the kind asked for stays as it is, eps, γ, β and all, and is in
    the report, so that the report's paths are the same for every norm.

    Args:
        model: the network; a norm layer by itself cannot be swapped in place.
        norm: what to put in. With `Norm.own()` the network stays as it is, and the report tells
            which layers any other norm would replace.
        also: module classes to convert besides, such as nn.BatchNorm2d (CVPR 2025, Table 15) or
            nn.GroupNorm, whose channels are at axis 1. Without it these stay.
        skip: globs of module paths to leave alone, each with all that is inside ("*" crosses
            dots, so "*feature_extractor" finds it wherever it is).
        copy_affine: take over the trained γ and β in place of 1 and 0.

    Returns:
        The report: a sequence of the replacements, in the order of `model.named_modules()`.

    Raises:
        ValueError: no norm layer matched; `model` is one itself; a pattern in `skip` or
            `norm.alpha0_at`, or a class in `also`, matched nothing; a shared layer gets two α0;
            a layer holds more than a norm (timm's fused norm and activation); or LN or BN would
            take the place of a layer that does not tell its width, or BN of one that normalizes
            several axes.
    """
    also, skip = _check_arguments(model, norm, also, skip)
    survey = _survey(model, also, skip)
    _check_survey(model, survey, also, skip)
    plan = [(site, _alpha0(site, norm)) for site in survey.sites]
    _check_rules_used(norm, survey.sites)
    layers = [_build(model, site, norm, alpha0) for site, alpha0 in plan]
    replacements = tuple(map(_describe, survey.sites, layers, (alpha0 for _, alpha0 in plan)))
    pairs = zip(survey.sites, layers, strict=True)
    swaps = [(site, layer) for site, layer in pairs if layer is not site.module]
    _fill([site.anatomy for site, _ in swaps], copy_affine)
    for site, layer in swaps:
        for path in site.paths:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
    if swaps:
        _leave_fused_path(model)
    return Report(
        norm=norm, replacements=replacements, kept=tuple(survey.kept), left=tuple(survey.left)
    )


@dataclass(frozen=True)
class _Site:
    """A norm layer to replace, and every path that leads to it."""

    paths: tuple[str, ...]
    module: nn.Module
    anatomy: Anatomy


@dataclass
class _Survey:
    sites: list[_Site] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    left: list[Kept] = field(default_factory=list)


def _check_arguments(
    model: object, norm: object, also: object, skip: object
) -> tuple[tuple[type[nn.Module], ...], tuple[str, ...]]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"convert needs an nn.Module, but got {type(model).__name__}.")
    if not isinstance(norm, Norm):
        raise ValueError(
            f"norm = {norm!r} is not a Norm: pass Norm.dyt(alpha0=0.5), Norm.derf(),"
            " Norm.layer_norm(), Norm.batch_norm() or Norm.own()."
        )
    classes = (also,) if isinstance(also, type) else tuple(also)
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"also = {kind!r} is not a module class, such as nn.BatchNorm2d.")
    patterns = (skip,) if isinstance(skip, str) else tuple(skip)
    for pattern in patterns:
        if not (isinstance(pattern, str) and pattern):
            raise ValueError(f"skip has {pattern!r} where a glob of module paths was expected.")
    return classes, patterns


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with all of its paths: a shared one has several."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return paths


def _survey(model: nn.Module, also: tuple[type[nn.Module], ...], skip: tuple[str, ...]) -> _Survey:
    survey = _Survey()
    for module, paths in _paths(model).items():
        label = Kept(paths[0], type(module).__name__)
        skipped = any(matches(pattern, path) for pattern in skip for path in paths)
        try:
            anatomy = read_listed(module) if isinstance(module, also) else read_norm(module)
        except ValueError as reason:
            if not skipped:
                raise ValueError(
                    f"{paths[0]!r} ({label.layer}) cannot be replaced: {reason}."
                    f" Leave it alone with skip=({paths[0]!r},), or build the network without it."
                ) from None
            survey.kept.append(label)
            continue
        if anatomy is None:
            if is_norm_like(module):
                survey.left.append(label)
        elif skipped:
            survey.kept.append(label)
        else:
            survey.sites.append(_Site(tuple(paths), module, anatomy))
    return survey


def _check_survey(
    model: nn.Module,
    survey: _Survey,
    also: tuple[type[nn.Module], ...],
    skip: tuple[str, ...],
) -> None:
    if any("" in site.paths for site in survey.sites):
        raise ValueError(
            f"The model is itself a norm layer ({type(model).__name__}), which cannot be replaced"
            " in place. Convert the network that holds it, or build dyt.DynamicTanh directly."
        )
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    for pattern in skip:
        if not any(matches(pattern, path) for path in paths):
            raise ValueError(
                f"skip pattern {pattern!r} matches no module of {type(model).__name__}. Correct"
                " it (see model.named_modules()), or leave it out."
            )
    for kind in also:
        if not any(isinstance(module, kind) for module in model.modules()):
            raise ValueError(
                f"also lists {kind.__name__}, but {type(model).__name__} has none. Leave it out."
            )
    if not survey.sites:
        raise ValueError(_nothing_matched(model, survey))


def _nothing_matched(model: nn.Module, survey: _Survey) -> str:
    message = f"{type(model).__name__} has no LN or RMSNorm to replace."
    done = Counter(
        type(module).__name__ for module in model.modules() if isinstance(module, DYNAMIC)
    )
    if done:
        layers = ", ".join(f"{n} × {name}" for name, n in done.items())
        message += f" It has {layers}: it seems to be converted already."
    if survey.kept:
        message += f" Kept by skip: {count(survey.kept)}."
    if survey.left:
        message += (
            f" It has {count(survey.left)}: to replace these, pass their classes, as in"
            f" also=({survey.left[0].layer},)."
        )
    return message


def _alpha0(site: _Site, norm: Norm) -> float | None:
    if norm.layer != "dyt" or norm.alpha == "absent":
        return None
    values = {norm.alpha0_for(path) for path in site.paths}
    if len(values) > 1:
        raise ValueError(
            f"{' = '.join(site.paths)} is one shared layer, but alpha0_at gives it"
            f" {' and '.join(f'{v:g}' for v in sorted(values))}. Use one pattern for all its paths."
        )
    return values.pop()


def _check_rules_used(norm: Norm, sites: Sequence[_Site]) -> None:
    """Refuse an alpha0_at pattern without effect: most likely it is mistyped."""
    unused = [pattern for pattern, _ in norm.alpha0_at]
    for site in sites:
        for path in site.paths:
            first = next((p for p, _ in norm.alpha0_at if matches(p, path)), None)
            unused = [pattern for pattern in unused if pattern != first]
    if unused:
        raise ValueError(
            f"alpha0_at pattern {unused[0]!r} sets the α0 of no layer: nothing matches it, or an"
            f" earlier pattern always wins. The layers are {', '.join(s.paths[0] for s in sites)}."
        )


def _describe(site: _Site, layer: nn.Module, alpha0: float | None) -> Replacement:
    return Replacement(
        path=site.paths[0],
        aliases=site.paths[1:],
        old=type(site.module).__name__,
        new=type(layer).__name__,
        replaced=layer is not site.module,
        alpha0=alpha0,
        shape=site.anatomy.shape,
        channel_axis=site.anatomy.channel_axis,
        affine=site.anatomy.weight is not None,
        bias=site.anatomy.bias is not None,
    )


def _build(model: nn.Module, site: _Site, norm: Norm, alpha0: float | None) -> nn.Module:
    """The new layer, holding the old one's parameters with their values untouched.

    It is the old one itself where that is to stay.
    """
    if norm.layer in ("own", site.anatomy.kind):
        return site.module
    weight, bias = site.anatomy.weight, site.anatomy.bias
    device, dtype, trainable = _surroundings(model, site.paths[0])
    if weight is not None:
        device, dtype, trainable = weight.device, weight.dtype, weight.requires_grad
    options = {"bias": bias is not None, "device": device, "dtype": dtype}
    if norm.layer == "dyt":
        layer = _dynamic(site.anatomy, norm, alpha0, options)
        for scalar in (layer.alpha, layer.shift):
            if scalar is not None:
                scalar.requires_grad_(trainable)
                scalar.__dict__.update({} if weight is None else weight.__dict__)
    else:
        layer = _standard(site, norm, options)
    layer.weight, layer.bias = weight, bias
    return layer.train(site.module.training)


def _dynamic(
    anatomy: Anatomy, norm: Norm, alpha0: float | None, options: dict[str, Any]
) -> DynamicTanh | DynamicErf:
    alpha0 = norm.alpha0 if alpha0 is None else alpha0
    options = {
        **options,
        "affine": anatomy.weight is not None,
        "channel_axis": anatomy.channel_axis,
        "alpha": norm.alpha,
    }
    if norm.squash == "erf":
        return DynamicErf(anatomy.shape, alpha0, norm.shift0, **options)
    return DynamicTanh(anatomy.shape, alpha0, squash=norm.squash, **options)


def _standard(
    site: _Site, norm: Norm, options: dict[str, Any]
) -> nn.LayerNorm | ChannelsFirstLayerNorm | BatchNorm:
    """The LN or BN of the site's width and channel axis."""
    anatomy = site.anatomy
    affine = anatomy.weight is not None
    if anatomy.shape is None:
        raise ValueError(_unfit(site, norm, "nothing tells the width that it needs"))
    if norm.layer == "layernorm":
        if anatomy.channel_axis == 1:
            return ChannelsFirstLayerNorm(*anatomy.shape, elementwise_affine=affine, **options)
        return nn.LayerNorm(anatomy.shape, elementwise_affine=affine, **options)
    if len(anatomy.shape) > 1:
        raise ValueError(_unfit(site, norm, f"it has one channel axis, not {anatomy.shape}"))
    return BatchNorm(*anatomy.shape, channel_axis=anatomy.channel_axis, affine=affine, **options)


def _unfit(site: _Site, norm: Norm, reason: str) -> str:
    return (
        f"{norm} cannot take the place of {site.paths[0]!r} ({type(site.module).__name__}):"
        f" {reason}. Leave it alone with skip=({site.paths[0]!r},)."
    )


def _surroundings(
    model: nn.Module, path: str
) -> tuple[torch.device | None, torch.dtype | None, bool]:
    """Device, dtype and trainability of the nearest module around `path` with float parameters."""
    while path:
        path = path.rpartition(".")[0]
        around = [p for p in model.get_submodule(path).parameters() if p.is_floating_point()]
        if around:
            return around[0].device, around[0].dtype, any(p.requires_grad for p in around)
    return None, None, True


@torch.no_grad()
def _fill(anatomies: Sequence[Anatomy], copy_affine: bool) -> None:
    """Set γ and β in the parameters the new layers hold; one tied to several layers once."""
    done: set[nn.Parameter] = set()
    for anatomy in anatomies:
        for parameter, start, offset in ((anatomy.weight, 1, anatomy.offset), (anatomy.bias, 0, 0)):
            if parameter is None or parameter in done:
                continue
            done.add(parameter)
            if not copy_affine:
                parameter.fill_(start)
            elif offset:
                parameter.add_(offset)


def _leave_fused_path(model: nn.Module) -> None:
    """Keep PyTorch's encoder off its fused inference path, which reads the LNs' eps and weights.

    A BN has both too, and would be run as a LN.
    Both switches are the attributes by which PyTorch itself rules that path out.
    """
    for module in model.modules():
        norms = (getattr(module, name, None) for name in ("norm1", "norm2"))
        ours = any(isinstance(norm, (*DYNAMIC, BatchNorm)) for norm in norms)
        if isinstance(module, nn.TransformerEncoderLayer) and ours:
            module.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in module.layers
        ):
            module.use_nested_tensor = False
