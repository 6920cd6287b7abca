"""Detection of LN and RMSNorm layers by what they compute, since class names are misleading.

T5's "LayerNorm" is an RMSNorm, Gemma's RMSNorm multiplies by 1 + weight, and a LayerNorm may
normalize the last axis or axis 1. A module that is not exactly PyTorch's own class is therefore run
on a small input with known weights, and its output is compared with the formulas.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyt.norm_formulas import Kind, formulas, input_sizes, is_close
from dyt.standard_norms import BatchNorm, ChannelsFirstLayerNorm

LAYER_OR_RMS = (nn.LayerNorm, nn.RMSNorm)
# Classes known without a probe: the channel axis and the kind.
EXACT: dict[type[nn.Module], tuple[int, Kind | None]] = {
    nn.LayerNorm: (-1, "layernorm"),
    nn.RMSNorm: (-1, None),
    ChannelsFirstLayerNorm: (1, "layernorm"),
}
# The private bases of every BatchNorm and, for _NormBase, InstanceNorm: PyTorch has no public ones.
BATCH_NORM = nn.modules.batchnorm._BatchNorm
CHANNEL_AXIS_ONE = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
OTHER_NORMS = (*CHANNEL_AXIS_ONE, nn.LocalResponseNorm, nn.CrossMapLRN2d)

WEIGHT_NAMES = ("weight", "gamma", "scale", "g")
BIAS_NAMES = ("bias", "beta", "b")
EPSILON_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps")


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """Shape, axis and parameters of a norm layer, sufficient to build its replacement.

    Attributes:
        shape: the normalized shape; None for a layer without parameters or a width attribute.
        channel_axis: -1, or 1 as in NCHW.
        weight, bias: the layer's parameters; None where it has none.
        offset: the number that the layer adds to its weight to get γ: 1 for Gemma, otherwise 0.
        kind: the `Norm.layer` that this layer already computes and that keeps it unchanged; None
            for RMSNorm and all others.
        activation: the activation that follows in the same module, as in timm's LayerNormAct2d.
    """

    shape: tuple[int, ...] | None
    channel_axis: int
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    offset: float = 0.0
    kind: Kind | None = None
    activation: nn.Module | None = None


def read_norm(module: nn.Module) -> NormSpec | None:
    """Return the spec of a LN or RMSNorm from any library, or None for any other module.

    Raises:
        ValueError: the module is a subclass of nn.LayerNorm or nn.RMSNorm but computes something
            else, and replacing it would drop part of the network.
    """
    activation = _activation(module)
    norm = module if activation is None else _without_children(module)
    if isinstance(module, LAYER_OR_RMS):
        spec = _read(norm)
        if spec is None:
            raise ValueError("it is a LayerNorm or RMSNorm by class, but computes something else")
    else:
        spec = _read(norm) if _is_candidate(norm) else None
    return spec and replace(spec, activation=activation)


def read_listed(module: nn.Module) -> NormSpec:
    """Return the spec of a module whose class the caller lists in `also`.

    BatchNorm, InstanceNorm and GroupNorm have their channels at axis 1, and dyt.BatchNorm at its
    `channel_axis`.

    Raises:
        ValueError: the module contains more than a norm (an activation, as in timm's
            BatchNormAct2d, or a gate), or its width is unknown.
    """
    check_replaceable(module)
    if isinstance(module, CHANNEL_AXIS_ONE):
        width = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        return NormSpec(
            shape=(width,),
            channel_axis=module.channel_axis if isinstance(module, BatchNorm) else 1,
            weight=module.weight,
            bias=module.bias,
            kind="batchnorm" if isinstance(module, BATCH_NORM) else None,
        )
    spec = _read(module) or _read_by_structure(module)
    if spec is None:
        raise ValueError(
            "its width is unknown: describe it with"
            f" also={{{type(module).__name__}: dyt.NormLayout(...)}}"
        )
    return spec


def check_replaceable(module: nn.Module) -> None:
    """Raise ValueError for a listed module with other modules, a scalar γ, or several inputs."""
    if not all(isinstance(child, nn.Identity) for child in module.children()):
        raise ValueError("it contains other modules, which would be lost")
    if _has_scalar_gamma(module):
        raise ValueError("its γ is one number, but that of DyT has one for each channel")
    if not isinstance(module, OTHER_NORMS) and not _takes_one_input(module):
        raise ValueError("its forward takes more than one input")


def is_norm_like(module: nn.Module) -> bool:
    """True if the module is a norm layer by class or name; only for messages and reports."""
    if isinstance(module, (*LAYER_OR_RMS, *OTHER_NORMS)):
        return True
    kind = type(module)
    # torch.nn.utils contains the implementation of weight and spectral normalization.
    named = "norm" in kind.__name__.lower() and not kind.__module__.startswith("torch.nn.utils")
    return named and not any(True for child in module.children() for _ in child.parameters())


def _activation(module: nn.Module) -> nn.Module | None:
    """Return the activation inside a norm layer, or None if there is none or more than that."""
    activation = module._modules.get("act")
    if activation is None or isinstance(module, OTHER_NORMS) or not is_norm_like(module):
        return None
    others = [child for child in module.children() if child is not activation]
    identity = isinstance(activation, nn.Identity)
    return None if identity or not all(isinstance(m, nn.Identity) for m in others) else activation


def _without_children(module: nn.Module) -> nn.Module:
    """Return a module that shares everything with the original but has identities as children."""
    stand_in = object.__new__(type(module))
    stand_in.__dict__.update(module.__dict__)
    stand_in.__dict__["_modules"] = {name: nn.Identity() for name in module._modules}
    return stand_in


def _is_candidate(module: nn.Module) -> bool:
    """True if the module should be probed: a norm by name, without further structure."""
    return (
        is_norm_like(module)
        and not isinstance(module, OTHER_NORMS)
        and all(map(_is_zero, module.buffers()))
        and not _has_scalar_gamma(module)
        and _takes_one_input(module)
    )


def _has_scalar_gamma(module: nn.Module) -> bool:
    """True if a parameter is one number for all channels, as g of ScaleNorm (arXiv 1910.05895)."""
    if isinstance(module, (*LAYER_OR_RMS, *OTHER_NORMS)):
        return False
    return any(p is not None and p.numel() == 1 for p in module._parameters.values())


def _is_zero(buffer: Tensor) -> bool:
    """True for a β that is a buffer of zeros, as in norms without a learnable β."""
    return buffer.is_floating_point() and not buffer.is_meta and not buffer.any()


def _takes_one_input(module: nn.Module) -> bool:
    """True if x is the only input, which excludes adaptive norms and norms with a gate."""
    try:
        inputs = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p for p in inputs if p.default is p.empty and p.kind not in variadic]
    gated = any(p.name in ("gate", "z") for p in inputs)
    return len(required) <= 1 and not gated


def _read(module: nn.Module) -> NormSpec | None:
    """Return the spec if the module computes a LN or RMSNorm, otherwise None.

    If a probe is not conclusive, as with a CUDA kernel on the CPU, name and structure decide.
    """
    if type(module) in EXACT:
        axis, kind = EXACT[type(module)]
        norm: Any = module
        weight, bias = norm.weight, getattr(norm, "bias", None)
        return NormSpec(
            shape=tuple(norm.normalized_shape),
            channel_axis=axis,
            weight=weight,
            bias=bias,
            kind=kind,
        )
    if not _takes_one_input(module):
        return None
    for names in _affine_names(module):
        shape = _shape(module, *names)
        result = _probe(module, names, shape)
        if result == "inconclusive":
            return _read_by_structure(module) if _is_norm_by_name(module) else None
        if result != "differs":
            axis, offset, kind = result
            return _make_spec(module, names, shape, axis, offset, kind)
    return None


def _read_by_structure(module: nn.Module) -> NormSpec | None:
    """Return the spec that attributes and class name suggest; None if the width is unknown."""
    names = next(iter(_affine_names(module)), None)
    shape = names and _shape(module, *names)
    if not (names and shape):
        return None
    first = getattr(module, "data_format", None) == "channels_first"
    weight = module._parameters[names[0]] if names[0] else None
    if weight is not None and weight.ndim > 1 and weight.shape[-1] == 1:  # such as (C, 1, 1)
        first = True
    axis = 1 if first or "2d" in type(module).__name__.lower() else -1
    layer = isinstance(module, nn.LayerNorm) or "layernorm" in _class_name(module)
    return _make_spec(module, names, shape, axis, 0.0, "layernorm" if layer else None)


def _is_norm_by_name(module: nn.Module) -> bool:
    name = _class_name(module)
    named = isinstance(module, LAYER_OR_RMS) or "layernorm" in name or "rmsnorm" in name
    return named and any(hasattr(module, epsilon) for epsilon in EPSILON_NAMES)


def _class_name(module: nn.Module) -> str:
    return type(module).__name__.lower().replace("_", "")


def _make_spec(
    module: nn.Module,
    names: tuple[str | None, str | None],
    shape: tuple[int, ...] | None,
    axis: int,
    offset: float,
    kind: Kind | None,
) -> NormSpec:
    weight, bias = (module._parameters[name] if name else None for name in names)
    return NormSpec(
        shape=shape, channel_axis=axis, weight=weight, bias=bias, offset=offset, kind=kind
    )


def _affine_names(module: nn.Module) -> list[tuple[str | None, str | None]]:
    """Return possible names of the weight and the bias; none if there are further parameters.

    Parameters with unusual names, such as a_2 and b_2, are possible in either role.
    """
    names = [name for name, p in module._parameters.items() if p is not None]
    weight = next((name for name in WEIGHT_NAMES if name in names), None)
    bias = next((name for name in BIAS_NAMES if name in names), None)
    if len(names) == (weight is not None) + (bias is not None) and (weight or not bias):
        return [(weight, bias)]
    if len(names) == 1:
        return [(names[0], None)]
    if len(names) == 2 and len({_parameter_shape(module, name) for name in names}) == 1:
        return [(names[0], names[1]), (names[1], names[0])]
    return []


def _parameter_shape(module: nn.Module, name: str) -> tuple[int, ...]:
    parameter = module._parameters[name]
    assert parameter is not None, "_affine_names returns parameters that exist"
    return tuple(parameter.shape)


def _shape(module: nn.Module, weight: str | None, bias: str | None) -> tuple[int, ...] | None:
    if weight is not None:
        sizes = _parameter_shape(module, weight)
        width = tuple(n for n in sizes if n != 1)
        return width if len(width) == 1 else sizes  # (1, C, 1, 1) is the width C
    for name in ("normalized_shape", "hidden_size", "dim"):
        shape = getattr(module, name, None)
        # A bare int named `dim` may be an axis or a width.
        if isinstance(shape, int) and not isinstance(shape, bool) and name != "dim":
            shape = (shape,)
        if isinstance(shape, (tuple, list)) and shape:
            return tuple(shape)
    return None


def _probe(
    module: nn.Module, names: tuple[str | None, str | None], shape: tuple[int, ...] | None
) -> tuple[int, float, Kind | None] | Literal["differs", "inconclusive"]:
    """Run a copy of the module on small CPU inputs; return (channel axis, weight offset, kind)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator, dtype=torch.float32, device="cpu")

    width = shape or (6,)
    if not all(isinstance(n, int) and n > 0 for n in width):
        return "differs"
    # Skip width 1, where all norms are equal, and widths whose probe would take much memory.
    if not 1 < math.prod(width) <= 2**20:
        return "inconclusive"
    parameters = {name: 0.5 + draw(*_parameter_shape(module, name)) for name in names if name}
    weight, bias = (parameters[name].view(width) if name else None for name in names)
    stand_in = _make_stand_in(module, parameters)
    stand_in.__dict__["_buffers"] = {
        name: buffer if buffer is None else torch.zeros(buffer.shape)
        for name, buffer in module._buffers.items()
    }
    ran, matched = False, set()
    for axis, sizes in input_sizes(width):
        # Values far above every epsilon and with a nonzero mean, to distinguish LN from RMSNorm.
        x = 100 * draw(*sizes) - 30
        try:
            y = _run(stand_in, x)
        except Exception:  # a third-party forward may raise anything on an unsuitable input
            continue
        ran = True
        for offset, kind, expected in formulas(x, weight, bias, axis):
            if is_close(y, expected):
                matched.add((axis, offset, kind))
                break
    if not ran:
        return "inconclusive"
    return matched.pop() if len(matched) == 1 else "differs"


def _run(stand_in: nn.Module, x: Tensor) -> object:
    """Return the module's output, independent of the caller's contexts and random state."""
    with (
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
        torch.random.fork_rng(devices=[]),
    ):
        # Not stand_in(x), which would run the hooks of the original module.
        return type(stand_in).forward(stand_in, x)


def run_norm(module: nn.Module, spec: NormSpec, x: Tensor, affine: bool) -> Tensor:
    """Return the output of a norm layer without its activation; affine=False: with γ = 1, β = 0."""
    values = {
        name: p if affine else torch.full_like(p, 1.0 - spec.offset if p is spec.weight else 0.0)
        for name, p in module._parameters.items()
        if p is not None
    }
    norm = module if spec.activation is None else _without_children(module)
    stand_in = _make_stand_in(norm, values)
    return type(stand_in).forward(stand_in, x)


def _make_stand_in(module: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    """Return a module that shares the original's attributes but has separate parameters."""
    stand_in = object.__new__(type(module))
    stand_in.__dict__.update(module.__dict__)
    stand_in._parameters = dict.fromkeys(module._parameters)
    stand_in._parameters.update({name: nn.Parameter(p) for name, p in parameters.items()})
    stand_in.__dict__["training"] = False
    return stand_in
