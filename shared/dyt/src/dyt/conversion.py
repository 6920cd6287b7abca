"""`convert`: in-place replacement of the norm layers of any network, with a report.

The steps are a survey of the network (`dyt.norm_detection`), the α0 of each layer
(`dyt.per_path_alpha0`), the construction of the new layers, and the replacement itself. All errors
are raised before the first layer is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dyt.conversion_report import Kept, Replacement, Report, count_by_class
from dyt.layers import DynamicErf, DynamicTanh
from dyt.norm_config import Norm
from dyt.norm_detection import NormSpec, is_norm_like, read_listed, read_norm
from dyt.path_patterns import matches
from dyt.per_path_alpha0 import check_patterns_used, resolve_shared_alpha0
from dyt.standard_norms import BatchNorm, ChannelsFirstLayerNorm

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
    """Replace every LN and RMSNorm of `model` in place (ICLR 2025 submission, Section 2.2).

    Norm layers are detected by what they compute, which covers those of PyTorch, timm,
    transformers, diffusers, fairseq, torchaudio and mamba_ssm, with channels last or at axis 1.
    The new layer has γ and β where the old one had them: neither for a LN without affine, no β for
    an RMSNorm. Its weight and bias *are* the old parameter objects, set to 1 and 0, so device,
    dtype, requires_grad, attributes, ties and optimizers that hold them stay valid; α follows the
    weight. A layer without parameters takes device and dtype from the nearest enclosing module
    that has floating-point parameters, and is frozen if that module is. No random number is drawn.
    Hooks on a replaced layer are lost.

    LN and BN are inserted by the same rules (ICLR 2025 submission, Table 11), with torch's eps of
    1e-5 and momentum of 0.1: an nn.LayerNorm, or ChannelsFirstLayerNorm for axis 1, and a
    BatchNorm. A layer that already is of the requested kind is kept unchanged (eps, γ and β
    included) and listed in the report, so the report's paths are the same for every norm.

    Args:
        model: the network; a norm layer by itself cannot be replaced in place.
        norm: the norm to insert. `Norm.own()` leaves the network unchanged, and the report lists
            the layers that any other norm would replace.
        also: further module classes to convert, such as nn.BatchNorm2d (CVPR 2025, Table 15) or
            nn.GroupNorm, whose channels are at axis 1. By default these are left alone.
        skip: globs of module paths to leave alone, each including everything inside the module
            ("*" crosses dots, so "*feature_extractor" matches at any depth).
        copy_affine: keep the trained γ and β instead of resetting them to 1 and 0.

    Returns:
        The report: a sequence of the replacements, in the order of `model.named_modules()`.

    Raises:
        ValueError: no norm layer matched; `model` is one itself; a pattern in `skip` or
            `norm.alpha0_at`, or a class in `also`, matched nothing; a shared layer gets two α0;
            a layer holds more than a norm (timm's fused norm and activation); LN or BN would
            replace a layer of unknown width; or BN would replace a layer that normalizes several
            axes.
    """
    also, skip = _check_arguments(model, norm, also, skip)
    survey = _survey(model, also, skip)
    _check_survey(model, survey, also, skip)
    plan = [(site, _resolve_alpha0(site, norm)) for site in survey.sites]
    check_patterns_used(norm.alpha0_at, [site.paths for site in survey.sites])
    layers = [_build(model, site, norm, alpha0) for site, alpha0 in plan]
    replacements = tuple(map(_describe, survey.sites, layers, (alpha0 for _, alpha0 in plan)))
    pairs = zip(survey.sites, layers, strict=True)
    swaps = [(site, layer) for site, layer in pairs if layer is not site.module]
    _set_affine([site.spec for site, _ in swaps], copy_affine)
    for site, layer in swaps:
        for path in site.paths:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
    if swaps:
        _disable_fused_encoder_path(model)
    return Report(
        norm=norm, replacements=replacements, kept=tuple(survey.kept), left=tuple(survey.left)
    )


@dataclass(frozen=True)
class _Site:
    """A norm layer to replace, and every path that leads to it."""

    paths: tuple[str, ...]
    module: nn.Module
    spec: NormSpec


@dataclass
class _Survey:
    """The norm layers of a network: to replace, kept by `skip`, and not convertible."""

    sites: list[_Site] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    left: list[Kept] = field(default_factory=list)


def _check_arguments(
    model: object, norm: object, also: Any, skip: Any
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
    """Return every module with all of its paths; a shared module has several."""
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
            spec = read_listed(module) if isinstance(module, also) else read_norm(module)
        except ValueError as reason:
            if not skipped:
                raise ValueError(
                    f"{paths[0]!r} ({label.layer}) cannot be replaced: {reason}."
                    f" Leave it alone with skip=({paths[0]!r},), or build the network without it."
                ) from None
            survey.kept.append(label)
            continue
        if spec is None:
            if is_norm_like(module):
                survey.left.append(label)
        elif skipped:
            survey.kept.append(label)
        else:
            survey.sites.append(_Site(tuple(paths), module, spec))
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
            " in place. Convert the network that contains it, or build dyt.DynamicTanh directly."
        )
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    for pattern in skip:
        if not any(matches(pattern, path) for path in paths):
            raise ValueError(
                f"skip pattern {pattern!r} matches no module of {type(model).__name__}. Correct"
                " it (see model.named_modules()) or remove it."
            )
    for kind in also:
        if not any(isinstance(module, kind) for module in model.modules()):
            raise ValueError(
                f"also lists {kind.__name__}, but {type(model).__name__} has none. Remove it."
            )
    if not survey.sites:
        raise ValueError(_no_norm_message(model, survey))


def _no_norm_message(model: nn.Module, survey: _Survey) -> str:
    message = f"{type(model).__name__} has no LN or RMSNorm to replace."
    converted = Counter(
        type(module).__name__ for module in model.modules() if isinstance(module, DYNAMIC)
    )
    if converted:
        layers = ", ".join(f"{n} × {name}" for name, n in converted.items())
        message += f" It has {layers}: it seems to be converted already."
    if survey.kept:
        message += f" Kept by skip: {count_by_class(survey.kept)}."
    if survey.left:
        message += (
            f" It has {count_by_class(survey.left)}: to replace these, pass their classes, as in"
            f" also=({survey.left[0].layer},)."
        )
    return message


def _resolve_alpha0(site: _Site, norm: Norm) -> float | None:
    """Return the initial α of a layer, or None for a norm without α."""
    if norm.layer != "dyt" or norm.alpha == "absent":
        return None
    return resolve_shared_alpha0(norm.alpha0_at, norm.alpha0, site.paths)


def _describe(site: _Site, layer: nn.Module, alpha0: float | None) -> Replacement:
    return Replacement(
        path=site.paths[0],
        aliases=site.paths[1:],
        old=type(site.module).__name__,
        new=type(layer).__name__,
        replaced=layer is not site.module,
        alpha0=alpha0,
        shape=site.spec.shape,
        channel_axis=site.spec.channel_axis,
        affine=site.spec.weight is not None,
        bias=site.spec.bias is not None,
    )


def _build(model: nn.Module, site: _Site, norm: Norm, alpha0: float | None) -> nn.Module:
    """Return the new layer, with the old layer's parameters and their values unchanged.

    Returns the old layer itself if it is to be kept.
    """
    if norm.layer in ("own", site.spec.kind):
        return site.module
    weight, bias = site.spec.weight, site.spec.bias
    device, dtype, trainable = _enclosing_options(model, site.paths[0])
    if weight is not None:
        device, dtype, trainable = weight.device, weight.dtype, weight.requires_grad
    options = {"bias": bias is not None, "device": device, "dtype": dtype}
    layer: Any  # torch's annotations exclude None for weight and bias
    if norm.layer == "dyt":
        layer = _build_dynamic(site.spec, norm, alpha0, options)
        for scalar in (layer.alpha, layer.shift):
            if scalar is not None:
                scalar.requires_grad_(trainable)
                scalar.__dict__.update({} if weight is None else weight.__dict__)
    else:
        layer = _build_standard(site, norm, options)
    layer.weight, layer.bias = weight, bias
    return layer.train(site.module.training)


def _build_dynamic(
    spec: NormSpec, norm: Norm, alpha0: float | None, options: dict[str, Any]
) -> DynamicTanh | DynamicErf:
    alpha0 = norm.alpha0 if alpha0 is None else alpha0
    options = {
        **options,
        "affine": spec.weight is not None,
        "channel_axis": spec.channel_axis,
        "alpha": norm.alpha,
    }
    if norm.squash == "erf":
        return DynamicErf(spec.shape, alpha0, norm.shift0, **options)
    return DynamicTanh(spec.shape, alpha0, squash=norm.squash, **options)


def _build_standard(
    site: _Site, norm: Norm, options: dict[str, Any]
) -> nn.LayerNorm | ChannelsFirstLayerNorm | BatchNorm:
    """Return a LN or BN with the width and channel axis of the old layer."""
    spec = site.spec
    affine = spec.weight is not None
    if spec.shape is None:
        raise ValueError(_unsupported(site, norm, "its width is unknown"))
    if norm.layer == "layernorm":
        if spec.channel_axis == 1:
            return ChannelsFirstLayerNorm(*spec.shape, elementwise_affine=affine, **options)
        return nn.LayerNorm(list(spec.shape), elementwise_affine=affine, **options)
    if len(spec.shape) > 1:
        raise ValueError(
            _unsupported(site, norm, f"BN needs one channel axis, but its shape is {spec.shape}")
        )
    return BatchNorm(*spec.shape, channel_axis=spec.channel_axis, affine=affine, **options)


def _unsupported(site: _Site, norm: Norm, reason: str) -> str:
    return (
        f"{norm} cannot replace {site.paths[0]!r} ({type(site.module).__name__}): {reason}."
        f" Leave it alone with skip=({site.paths[0]!r},)."
    )


def _enclosing_options(
    model: nn.Module, path: str
) -> tuple[torch.device | None, torch.dtype | None, bool]:
    """Return device, dtype and trainability of the nearest enclosing module with float parameters.

    A module is trainable if any of its floating-point parameters is.
    """
    while path:
        path = path.rpartition(".")[0]
        enclosing = [p for p in model.get_submodule(path).parameters() if p.is_floating_point()]
        if enclosing:
            first, trainable = enclosing[0], any(p.requires_grad for p in enclosing)
            return first.device, first.dtype, trainable
    return None, None, True


@torch.no_grad()
def _set_affine(specs: Sequence[NormSpec], copy_affine: bool) -> None:
    """Set γ and β in the parameters of the new layers; a tied parameter is set once."""
    done: set[nn.Parameter] = set()
    for spec in specs:
        for parameter, start, offset in ((spec.weight, 1, spec.offset), (spec.bias, 0, 0)):
            if parameter is None or parameter in done:
                continue
            done.add(parameter)
            if not copy_affine:
                parameter.fill_(start)
            elif offset:
                parameter.add_(offset)


def _disable_fused_encoder_path(model: nn.Module) -> None:
    """Keep nn.TransformerEncoder off its fused inference path.

    That path reads eps and weights of the LNs. A BN has these attributes as well and would be run
    as a LN. The two attributes set here are those by which PyTorch itself excludes the fused path.
    """
    for module in model.modules():
        norms = (getattr(module, name, None) for name in ("norm1", "norm2"))
        converted = any(isinstance(norm, (*DYNAMIC, BatchNorm)) for norm in norms)
        if isinstance(module, nn.TransformerEncoderLayer) and converted:
            module.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in module.layers
        ):
            module.use_nested_tensor = False
