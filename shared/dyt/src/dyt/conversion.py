"""`convert`: in-place replacement of the norm layers of any network, with a report.

The steps are a survey of the network (`dyt.norm_survey`), the α0 of each layer
(`dyt.per_path_alpha0`), the construction of the new layers, their calibration if there are data
(`dyt.calibration`), and the replacement itself. All errors are raised before the first layer is
replaced.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dyt.calibrated_conversion import add_fit, fit_sites, set_fit
from dyt.conversion_report import Replacement, Report
from dyt.layers import Derf, DyT
from dyt.norm_activation import add_activation
from dyt.norm_config import Norm
from dyt.norm_detection import NormSpec
from dyt.norm_layout import Also, check_also
from dyt.norm_survey import DYNAMIC, Site, check_survey, survey_norms
from dyt.per_path_alpha0 import check_patterns_used, resolve_shared_alpha0
from dyt.standard_norms import BatchNorm, ChannelsFirstLayerNorm

DYT = Norm()


def convert(
    model: nn.Module,
    norm: Norm = DYT,
    *,
    also: type[nn.Module] | Iterable[type[nn.Module]] | Also = (),
    skip: str | Iterable[str] = (),
    copy_affine: bool = False,
    calibrate: Any = None,
    dry_run: bool = False,
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
            nn.GroupNorm, whose channels are at axis 1. By default these are left alone. For a class
            whose width, axis and parameters cannot be found, a mapping gives its `NormLayout`.
        skip: globs of module paths to leave alone, each including everything inside the module
            ("*" crosses dots, so "*feature_extractor" matches at any depth).
        copy_affine: keep the trained γ and β instead of resetting them to 1 and 0. The network's
            outputs are not preserved unless the layers are also calibrated.
        calibrate: a batch of data, an iterable of batches, a function that runs the network, or a
            `Calibration` with further options. Each new layer is fitted to the outputs of the norm
            layer that it replaces: for training from scratch α and one number for all of γ (see
            `Calibration.gamma`; β = 0), or with copy_affine α, γ and β of each channel, to preserve
            a trained network. Derf's s is fitted too. The network runs in evaluation mode. A
            warning names layers whose relative error exceeds 0.5 and layers that the data never
            reach, which get `norm.alpha0`.
        dry_run: return the report, also of a calibration, and leave the network unchanged.

    Returns:
        The report: a sequence of the replacements, in the order of `model.named_modules()`.

    Raises:
        ValueError: no norm layer matched; `model` is one itself; a pattern in `skip` or
            `norm.alpha0_at`, or a class in `also`, matched nothing; a shared layer gets two α0;
            a layer holds more than a norm (timm's fused norm and activation); LN or BN would
            replace a layer of unknown width; BN would replace a layer that normalizes several
            axes; or the network cannot be calibrated on the data.
    """
    layouts, skip = _check_arguments(model, norm, also, skip)
    if calibrate is not None and (norm.layer != "dyt" or norm.squash == "identity"):
        raise ValueError(f"calibrate fits α of DyT and Derf, not of {norm}. Remove the argument.")
    requested = norm
    if norm.calibrated and calibrate is None:
        raise ValueError(f"{norm} needs data to fit α on. Pass calibrate=batch.")
    norm = norm.uncalibrated()  # its α0 is for layers that the data never reach
    survey = survey_norms(model, layouts, skip)
    check_survey(model, survey, layouts, skip)
    check_patterns_used(norm.alpha0_at, [site.paths for site in survey.sites])
    plan, replacements, swaps = _build_layers(model, survey.sites, norm)
    if calibrate is not None:
        fits = fit_sites(model, plan, norm, copy_affine, calibrate)
        described = zip(replacements, survey.sites, strict=True)
        replacements = [add_fit(r, fits.get(site.module)) for r, site in described]
    elif copy_affine and norm.layer == "dyt" and not dry_run:
        warnings.warn(
            "copy_affine keeps γ and β, but the network's outputs change. Pass calibrate=batch.",
            stacklevel=2,
        )
    report = Report(
        norm=requested,
        replacements=tuple(replacements),
        kept=tuple(survey.kept),
        left=tuple(survey.left),
        also={kind.__name__: layout for kind, layout in layouts.items()},
        skip=skip,
    )
    if dry_run:
        return report
    _insert(model, swaps, copy_affine)
    if calibrate is not None:
        for site, layer in swaps:
            assert isinstance(layer, (DyT, Derf))
            set_fit(layer, fits.get(site.module))
    return report


def replace_sites(model: nn.Module, sites: Sequence[Site], norm: Norm) -> list[Replacement]:
    """Replace the given norm layers of a complete network, as `convert` does, and describe each.

    Raises:
        ValueError: as `convert`, before the first layer is replaced.
    """
    if sites:
        _check_unwrapped(model)
    _, replacements, swaps = _build_layers(model, sites, norm)
    _insert(model, swaps, copy_affine=False)
    return replacements


def _build_layers(
    model: nn.Module, sites: Sequence[Site], norm: Norm
) -> tuple[list[tuple[Site, float | None]], list[Replacement], list[tuple[Site, nn.Module]]]:
    """Build the new layers without inserting them.

    Returns:
        The sites with their α0, a description of each, and the sites whose layer is replaced with
        their new layers.
    """
    plan = [(site, _resolve_alpha0(site, norm)) for site in sites]
    layers = [_build(model, site, norm, alpha0) for site, alpha0 in plan]
    replacements = list(map(_describe, sites, layers, (alpha0 for _, alpha0 in plan)))
    pairs = zip(sites, layers, strict=True)
    return plan, replacements, [(site, layer) for site, layer in pairs if layer is not site.module]


def _insert(model: nn.Module, swaps: Sequence[tuple[Site, nn.Module]], copy_affine: bool) -> None:
    """Insert the new layers at the paths of the old ones, and set their γ and β."""
    _set_affine([site.spec for site, _ in swaps], copy_affine)
    for site, layer in swaps:
        for path in site.paths:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
    if swaps:
        _disable_fused_encoder_path(model)


def _check_arguments(
    model: object, norm: object, also: Any, skip: Any
) -> tuple[Also, tuple[str, ...]]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"convert needs an nn.Module, but got {type(model).__name__}.")
    _check_unwrapped(model)
    check_norm(norm)
    return check_also(also), check_skip(skip)


def check_norm(norm: object) -> None:
    """Raise ValueError unless `norm` is a Norm."""
    if not isinstance(norm, Norm):
        raise ValueError(
            f"norm = {norm!r} is not a Norm: pass Norm.dyt(alpha0=0.5), Norm.derf(),"
            " Norm.layer_norm(), Norm.batch_norm() or Norm.own()."
        )


def check_skip(skip: Any) -> tuple[str, ...]:
    """Return `skip` as a tuple of globs; raise ValueError if it is something else."""
    patterns = (skip,) if isinstance(skip, str) else tuple(skip)
    for pattern in patterns:
        if not (isinstance(pattern, str) and pattern):
            raise ValueError(f"skip has {pattern!r} where a glob of module paths was expected.")
    return patterns


def _check_unwrapped(model: nn.Module) -> None:
    if (wrapper := _parallel_wrapper(model)) is not None:
        raise ValueError(
            f"The network is inside {wrapper}, which registered its parameters already and would"
            " not synchronize α. Convert the network first, then wrap it."
        )


def _parallel_wrapper(model: nn.Module) -> str | None:
    """Return the name of a wrapper for several processes around or in the network, or None."""
    if _is_inside_ddp(model):
        return "DistributedDataParallel"
    # Imported by whoever uses them; importing them here would take seconds.
    classes = {
        "torch.distributed.fsdp": "FullyShardedDataParallel",
        "torch.distributed._tensor": "DTensor",  # torch 2.4
        "torch.distributed.tensor": "DTensor",
    }
    for module_name, name in classes.items():
        kind = getattr(sys.modules.get(module_name), name, None)
        if kind is None:
            continue
        if any(isinstance(member, kind) for member in (*model.modules(), *model.parameters())):
            return "FSDP or tensor parallelism" if name == "DTensor" else name
    return None


def _is_inside_ddp(model: nn.Module) -> bool:
    """True if the network contains, is in, or is DistributedDataParallel.

    A network does not refer to the wrapper around it, such as that of `convert(ddp.module)`, so the
    wrapper is searched for among all objects.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        return True

    def is_around(wrapper: object) -> bool:
        # Not isinstance, which runs code of proxies of other libraries.
        return issubclass(type(wrapper), DistributedDataParallel) and any(
            module is model for module in cast(DistributedDataParallel, wrapper).modules()
        )

    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    if not any(map(is_around, gc.get_objects())):
        return False
    gc.collect()  # a wrapper that is not used any more
    return any(map(is_around, gc.get_objects()))


def _resolve_alpha0(site: Site, norm: Norm) -> float | None:
    """Return the initial α of a layer, or None for a norm without α."""
    if norm.layer != "dyt" or norm.alpha == "absent":
        return None
    assert not isinstance(norm.alpha0, str), "convert replaces 'calibrated' by a number"
    return resolve_shared_alpha0(norm.alpha0_at, norm.alpha0, site.paths)


def _describe(site: Site, layer: nn.Module, alpha0: float | None) -> Replacement:
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


def _build(model: nn.Module, site: Site, norm: Norm, alpha0: float | None) -> nn.Module:
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
            if isinstance(scalar, nn.Parameter):
                scalar.requires_grad_(trainable)
                scalar.__dict__.update({} if weight is None else weight.__dict__)
    else:
        layer = _build_standard(site, norm, options)
    layer.weight, layer.bias = weight, bias
    if site.spec.activation is not None:
        layer = add_activation(layer, site.spec.activation)
    return layer.train(site.module.training)


def _build_dynamic(
    spec: NormSpec, norm: Norm, alpha0: float | None, options: dict[str, Any]
) -> DyT | Derf:
    assert not isinstance(norm.alpha0, str), "convert replaces 'calibrated' by a number"
    alpha0 = norm.alpha0 if alpha0 is None else alpha0
    options = {
        **options,
        "affine": spec.weight is not None,
        "channel_axis": spec.channel_axis,
        "alpha": norm.alpha,
    }
    if norm.squash == "erf":
        return Derf(spec.shape, alpha0, norm.shift0, **options)
    return DyT(spec.shape, alpha0, squash=norm.squash, **options)


def _build_standard(
    site: Site, norm: Norm, options: dict[str, Any]
) -> nn.LayerNorm | ChannelsFirstLayerNorm | BatchNorm:
    """Return a LN or BN with the width and channel axis of the old layer."""
    spec = site.spec
    affine = spec.weight is not None
    if spec.shape is None:
        raise ValueError(_unsupported(site, norm, "its width is unknown"))
    if spec.activation is not None:
        raise ValueError(_unsupported(site, norm, "it holds an activation as well"))
    if norm.layer == "layernorm":
        if spec.channel_axis == 1:
            return ChannelsFirstLayerNorm(*spec.shape, elementwise_affine=affine, **options)
        return nn.LayerNorm(list(spec.shape), elementwise_affine=affine, **options)
    if len(spec.shape) > 1:
        raise ValueError(
            _unsupported(site, norm, f"BN needs one channel axis, but its shape is {spec.shape}")
        )
    return BatchNorm(*spec.shape, channel_axis=spec.channel_axis, affine=affine, **options)


def _unsupported(site: Site, norm: Norm, reason: str) -> str:
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
            if spec.shape is not None and parameter.shape != spec.shape:
                parameter.data = parameter.data.view(spec.shape)  # such as (1, C, 1, 1)
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
