"""Finds out which modules are LN or RMSNorm by what they compute, since names mislead.

T5's "LayerNorm" is an RMSNorm, Gemma's RMSNorm multiplies by 1 + weight, and a LayerNorm may
normalize the last axis or axis 1. So a module that is not exactly PyTorch's own is run on a small
input with weights of our choosing, and its output is compared with the formulas.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dyt.standard import BatchNorm, ChannelsFirstLayerNorm

Kind = Literal["layernorm", "batchnorm"]

LAYER_OR_RMS = (nn.LayerNorm, nn.RMSNorm)
# What needs no run: the channel axis and the kind.
EXACT: dict[type[nn.Module], tuple[int, Kind | None]] = {
    nn.LayerNorm: (-1, "layernorm"),
    nn.RMSNorm: (-1, None),
    ChannelsFirstLayerNorm: (1, "layernorm"),
}
# The private bases of every BatchNorm, and of InstanceNorm too: PyTorch has no public ones.
BATCH_NORM = nn.modules.batchnorm._BatchNorm
CHANNEL_AXIS_ONE = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
OTHER_NORMS = (*CHANNEL_AXIS_ONE, nn.LocalResponseNorm, nn.CrossMapLRN2d)

WEIGHT_NAMES = ("weight", "gamma", "scale", "g")
BIAS_NAMES = ("bias", "beta", "b")
EPSILON_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps")


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a norm layer is made of: enough to build the layer that takes its place.

    `shape` is None for a layer without parameters that does not tell its width. `offset` is what
    the layer adds to its weight to get γ: 1 for Gemma, else 0. `kind` is `Norm.layer` of the norm
    that would leave this one as it is, by what it computes; None for RMSNorm and all others.
    """

    shape: tuple[int, ...] | None
    channel_axis: int
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    offset: float = 0.0
    kind: Kind | None = None


def read_norm(module: nn.Module) -> Anatomy | None:
    """The anatomy of a LN or RMSNorm of whichever library, or None for any other module.

    Raises:
        ValueError: the module is a subclass of nn.LayerNorm or nn.RMSNorm, but computes something
            else, so that replacing it would drop a part of the network.
    """
    if isinstance(module, LAYER_OR_RMS):
        anatomy = _read(module)
        if anatomy is None:
            raise ValueError("it is a LayerNorm or RMSNorm by class, but computes something else")
        return anatomy
    return _read(module) if _could_be_norm(module) else None


def read_listed(module: nn.Module) -> Anatomy:
    """The anatomy of a module whose class the caller lists in `also`.

    BatchNorm, InstanceNorm and GroupNorm have their channels at axis 1, dyt.BatchNorm where it
    says.

    Raises:
        ValueError: the module holds more than a norm (an activation, as in timm's BatchNormAct2d,
            or a gate), or nothing tells its width.
    """
    if not all(isinstance(child, nn.Identity) for child in module.children()):
        raise ValueError("it holds other modules, which would be lost")
    if isinstance(module, CHANNEL_AXIS_ONE):
        width = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        return Anatomy(
            shape=(width,),
            channel_axis=module.channel_axis if isinstance(module, BatchNorm) else 1,
            weight=module.weight,
            bias=module.bias,
            kind="batchnorm" if isinstance(module, BATCH_NORM) else None,
        )
    if not _takes_one_input(module):
        raise ValueError("its forward takes more than one input")
    anatomy = _read(module) or _read_by_structure(module)
    if anatomy is None:
        raise ValueError("nothing tells its width: neither a weight nor normalized_shape")
    return anatomy


def is_norm_like(module: nn.Module) -> bool:
    """Whether a person would call the module a norm layer: for messages and reports alone."""
    if isinstance(module, (*LAYER_OR_RMS, *OTHER_NORMS)):
        return True
    kind = type(module)
    # torch.nn.utils holds the machinery of weight and spectral normalization.
    named = "norm" in kind.__name__.lower() and not kind.__module__.startswith("torch.nn.utils")
    return named and not any(True for child in module.children() for _ in child.parameters())


def _could_be_norm(module: nn.Module) -> bool:
    """Whether it is worth running: a norm by name, and by structure no more than that."""
    return (
        is_norm_like(module)
        and not isinstance(module, OTHER_NORMS)
        and not any(True for _ in module.buffers())
        and _takes_one_input(module)
    )


def _takes_one_input(module: nn.Module) -> bool:
    """Whether x is the only input: not so for adaptive norms, nor for those with a gate."""
    try:
        inputs = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    flexible = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in inputs if p.default is p.empty and p.kind not in flexible]
    gated = any(p.name in ("gate", "z") for p in inputs)
    return len(needed) <= 1 and not gated


def _read(module: nn.Module) -> Anatomy | None:
    """The anatomy if the module computes what a LN or RMSNorm does; None if it does not.

    Where a run cannot tell, as for a CUDA kernel on the CPU, name and structure decide.
    """
    if type(module) in EXACT:
        axis, kind = EXACT[type(module)]
        shape, bias = tuple(module.normalized_shape), getattr(module, "bias", None)
        return Anatomy(shape=shape, channel_axis=axis, weight=module.weight, bias=bias, kind=kind)
    roles = _roles(module)
    if roles is None or not _takes_one_input(module):
        return None
    shape = _shape(module, *roles)
    found = _probe(module, roles, shape)
    if found == "differs":
        return None
    if found == "cannot tell":
        return _read_by_structure(module) if _is_norm_by_name(module) else None
    axis, offset, kind = found
    return _anatomy(module, roles, shape, axis, offset, kind)


def _read_by_structure(module: nn.Module) -> Anatomy | None:
    roles = _roles(module)
    shape = roles and _shape(module, *roles)
    if not (roles and shape):
        return None
    first = getattr(module, "data_format", None) == "channels_first"
    axis = 1 if first or "2d" in type(module).__name__.lower() else -1
    layer = isinstance(module, nn.LayerNorm) or "layernorm" in _name(module)
    return _anatomy(module, roles, shape, axis, 0.0, "layernorm" if layer else None)


def _is_norm_by_name(module: nn.Module) -> bool:
    name = _name(module)
    named = isinstance(module, LAYER_OR_RMS) or "layernorm" in name or "rmsnorm" in name
    return named and any(hasattr(module, epsilon) for epsilon in EPSILON_NAMES)


def _name(module: nn.Module) -> str:
    return type(module).__name__.lower().replace("_", "")


def _anatomy(
    module: nn.Module,
    roles: tuple[str | None, str | None],
    shape: tuple[int, ...] | None,
    axis: int,
    offset: float,
    kind: Kind | None,
) -> Anatomy:
    weight, bias = (name and module._parameters[name] for name in roles)
    return Anatomy(
        shape=shape, channel_axis=axis, weight=weight, bias=bias, offset=offset, kind=kind
    )


def _roles(module: nn.Module) -> tuple[str | None, str | None] | None:
    """The names of the weight and the bias; None where there are parameters besides."""
    names = [name for name, p in module._parameters.items() if p is not None]
    weight = next((name for name in WEIGHT_NAMES if name in names), None)
    bias = next((name for name in BIAS_NAMES if name in names), None)
    if len(names) > (weight is not None) + (bias is not None) or (bias and not weight):
        return None
    return weight, bias


def _shape(module: nn.Module, weight: str | None, bias: str | None) -> tuple[int, ...] | None:
    if weight is not None:
        return tuple(module._parameters[weight].shape)
    for name in ("normalized_shape", "hidden_size", "dim"):
        shape = getattr(module, name, None)
        # A bare int called `dim` may be an axis as well as a width.
        if isinstance(shape, int) and not isinstance(shape, bool) and name != "dim":
            shape = (shape,)
        if isinstance(shape, (tuple, list)) and shape:
            return tuple(shape)
    return None


def _probe(
    module: nn.Module, roles: tuple[str | None, str | None], shape: tuple[int, ...] | None
) -> tuple[int, float, Kind | None] | Literal["differs", "cannot tell"]:
    """Run a copy of the module on small CPU inputs: (channel axis, weight offset, kind)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator, dtype=torch.float32, device="cpu")

    width = shape or (6,)
    if not all(isinstance(n, int) and n > 0 for n in width):
        return "differs"
    # One channel looks alike after every norm, and a probe of a million would take memory.
    if not 1 < math.prod(width) <= 2**20:
        return "cannot tell"
    parameters = {name: 0.5 + draw(*width) for name in roles if name}
    weight, bias = (parameters.get(name) for name in roles)
    double = _double(module, parameters)
    ran, found = False, set()
    for axis, sizes in _input_sizes(width):
        # Values far above every epsilon, with a mean, so that LN and RMSNorm come out apart.
        x = 100 * draw(*sizes) - 30
        try:
            y = _run(double, x)
        except Exception:  # whatever a foreign forward raises on an input it is not for
            continue
        ran = True
        for offset, kind, expected in _formulas(x, weight, bias, axis):
            if _equal(y, expected):
                found.add((axis, offset, kind))
                break
    if not ran:
        return "cannot tell"
    return found.pop() if len(found) == 1 else "differs"


def _run(double: nn.Module, x: Tensor) -> object:
    """The module's output, whatever the caller's surroundings; the random state stays."""
    with (
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
        torch.random.fork_rng(devices=[]),
    ):
        # Not double(x), which would run the hooks of the module it stands for.
        return type(double).forward(double, x)


def _double(module: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    """A stand-in that shares the module's attributes, but has tensors of its own."""
    double = object.__new__(type(module))
    double.__dict__.update(module.__dict__)
    double._parameters = dict.fromkeys(module._parameters)
    double._parameters.update({name: nn.Parameter(p) for name, p in parameters.items()})
    double.__dict__["training"] = False
    return double


def _input_sizes(width: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(channel axis, input sizes) to try; no other axis is as long as the channels."""
    h, w = [n for n in range(3, 6 + len(width)) if n not in width][:2]
    yield -1, (2, h, *width)
    yield -1, (2, h, w, *width)
    if len(width) == 1:
        yield 1, (2, *width, h)
        yield 1, (2, *width, h, w)


def _formulas(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int
) -> Iterator[tuple[float, Kind | None, Tensor]]:
    """(weight offset, kind, output) of all that counts as LN or RMSNorm, in the order of use."""
    shape = () if weight is None else weight.shape
    spans = {(axis,), tuple(range(-len(shape), 0))} if len(shape) > 1 else {(axis,)}
    column = (-1, *(1,) * (x.ndim - 2)) if axis == 1 else shape
    for dims in spans:
        centred = x - x.mean(dims, keepdim=True)
        for kind, normal in (
            ("layernorm", centred / centred.square().mean(dims, keepdim=True).sqrt()),
            (None, x / x.square().mean(dims, keepdim=True).sqrt()),  # RMSNorm
            (None, x / x.std(dims, keepdim=True)),  # timm's SimpleNorm
        ):
            if weight is None:
                yield 0.0, kind, normal
                continue
            shift = 0.0 if bias is None else bias.view(column)
            for offset in (0.0, 1.0):
                yield offset, kind, normal * (offset + weight.view(column)) + shift


def _equal(y: object, expected: Tensor) -> bool:
    if not isinstance(y, Tensor) or y.shape != expected.shape:
        return False
    return torch.allclose(y.float(), expected, rtol=1e-3, atol=1e-3)
