"""`fold`: γ and β of DyT layers merged into the following Linears, for cheaper inference.

`dyt.output_consumers` finds which Linears, and what else, use the output of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from dyt.layers import Derf, DyT
from dyt.norm_survey import DYNAMIC
from dyt.output_consumers import (
    Consumers,
    ParameterOwners,
    channel_axis,
    observe,
    trace,
)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The result for one DyT layer: the Linears it was folded into, or the reason why it was not.

    Attributes:
        path: the layer's path, such as "blocks.0.norm1"; the first one of a shared layer.
        layer: the name of its class.
        into: the paths of the Linears that took γ and β; empty if the layer is unchanged.
        new_bias: the paths in `into` whose Linear had no bias and got one.
        reason: why the layer is unchanged; None if it was folded.
    """

    path: str
    layer: str
    into: tuple[str, ...] = ()
    new_bias: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class FoldReport(Sequence[Fold]):
    """The results for all layers that had γ or β, in the order of the network's modules.

    Prints as a table.

    Attributes:
        layers: one result for each layer. The report is a sequence of these.
    """

    layers: tuple[Fold, ...]

    @property
    def folded(self) -> tuple[Fold, ...]:
        """The folded layers, of which only α (and s) remain."""
        return tuple(fold for fold in self if fold.into)

    @property
    def left(self) -> tuple[Fold, ...]:
        """The unchanged layers, each with its reason."""
        return tuple(fold for fold in self if not fold.into)

    @overload
    def __getitem__(self, index: int) -> Fold: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Fold, ...]: ...
    def __getitem__(self, index: int | slice) -> Fold | tuple[Fold, ...]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.layers)

    def __str__(self) -> str:
        rows = [("path", "layer", "folded into"), *map(_row, self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.append(f"{len(self.folded)} of {len(self)} layers with γ or β folded")
        return "\n".join(lines)


def _row(fold: Fold) -> tuple[str, str, str]:
    into = (f"{path} (new bias)" if path in fold.new_bias else path for path in fold.into)
    return (fold.path, fold.layer, ", ".join(into) or f"left: {fold.reason}")


def fold(model: nn.Module, *example: Any, **example_kwargs: Any) -> FoldReport:
    """Fold γ and β of each DyT and Derf layer into the Linears that use it, for inference.

    W(γ·t + β) + b = (W·diag(γ))·t + (b + W·β), with t = tanh(αx), erf(αx + s) or an ablation.
    The model is changed in place: the layer then computes only t, and the network's output is the
    same up to rounding (bfloat16 values are rounded at different places). A layer is folded if its
    output is used only by Linears and these have no other input; all other layers are unchanged,
    and the report states the reason. Here and below a convolution without padding, such as one of
    1 × 1, is a Linear for a layer with channels at axis 1.

    The consumers of each output are found by tracing the network (torch.fx) or, if an example of
    the inputs is given, by one run on it under no_grad, which follows any
    Python code and also views of the output. A run shows only the code that it executes: pass
    inputs that take the path used in inference, and the whole network with everything that shares
    its layers. A C++ extension that is bound directly to Python, not as an operator of torch, is
    not detected.

    The new weights are computed in float64 and keep dtype, device, requires_grad and the parameter
    object; a Linear without bias gets one if there is a β. The state dict loses `weight` and `bias`
    of folded layers and gains the new biases, so load checkpoints before folding, and load a
    checkpoint of a folded network only into a network folded in the same way. A second call
    changes nothing.

    Args:
        model: the network, in evaluation mode; it can also be a single `DyTLinear`.
        example, example_kwargs: the arguments to call the model with, for networks that torch.fx
            cannot trace, such as those of transformers.

    Returns:
        The report: a sequence with the result for each layer that had γ or β.

    Raises:
        ValueError: there is no DyT layer; the model is in training mode; or no example was given
            and torch.fx cannot trace the model. Errors of the model on the example propagate.
    """
    _check(model)
    paths = {m: path for path, m in model.named_modules()}
    layers = [m for m in model.modules() if isinstance(m, DYNAMIC)]
    layers = [layer for layer in layers if layer.weight is not None or layer.bias is not None]
    if not layers:
        return FoldReport(())
    has_example = bool(example or example_kwargs)
    consumers = observe(model, example, example_kwargs) if has_example else trace(model)
    owners, folds = ParameterOwners(model), []
    reasons = {layer: _why_not_foldable(layer, consumers, owners, paths) for layer in layers}
    for layer, reason in reasons.items():
        linears = [] if reason else list(consumers.linears[layer])
        new_bias = [m for m in linears if m.bias is None and layer.bias is not None]
        for linear in linears:
            _fold_into(linear, layer)
        if linears:
            layer.weight = layer.bias = None
        folds.append(
            Fold(
                path=paths[layer],
                layer=type(layer).__name__,
                into=tuple(paths[m] for m in linears),
                new_bias=tuple(paths[m] for m in new_bias),
                reason=reason,
            )
        )
    torch.clear_autocast_cache()  # within autocast, the cache would still hold the old weights
    return FoldReport(tuple(folds))


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"fold needs an nn.Module, but got {type(model).__name__}.")
    if isinstance(model, DYNAMIC):
        raise ValueError(
            f"The model is itself a {type(model).__name__}, with no Linear to fold into. Pass the"
            " network that contains it."
        )
    if not any(isinstance(m, DYNAMIC) for m in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no DyT or Derf to fold. Call"
            " dyt.convert(model) first and load the trained weights."
        )
    training = [path for path, module in model.named_modules() if module.training]
    if training:
        example = f" (for example {training[0]!r})" if training[0] else ""
        raise ValueError(
            f"{type(model).__name__} is in training mode{example}, but a folded network is only for"
            " inference. Call model.eval() first, and keep the unfolded weights for training."
        )


def _why_not_foldable(
    layer: DyT | Derf,
    consumers: Consumers,
    owners: ParameterOwners,
    paths: dict[nn.Module, str],
) -> str | None:
    """Return the first reason why the layer cannot be folded, or None if it can."""
    if not _is_plain(layer) or type(layer).forward not in (d.forward for d in DYNAMIC):
        return "it computes more than its class, or its parameters are not plain nn.Parameters"
    if len(layer.normalized_shape or ()) > 1:
        return "its channels are more than one axis"
    if _has_hooks(layer):
        return "it has hooks"
    if layer in consumers.exposed:
        return "its parameters are read by something else"
    if layer not in consumers.called:
        return "it is never called"
    if consumers.others[layer]:
        return consumers.others[layer][0]
    if not consumers.linears[layer]:
        return "nothing reads its output"
    for linear in consumers.linears[layer]:
        if reason := _why_not_into(linear, layer, consumers, owners):
            return f"{paths[linear]} {reason}"
    return None


def _why_not_into(
    linear: nn.Linear, layer: nn.Module, consumers: Consumers, owners: ParameterOwners
) -> str | None:
    """Return the first reason why the layer cannot be folded into this Linear, or None."""
    if consumers.inputs[linear] != {layer}:
        return "has other inputs as well"
    if channel_axis(linear) != layer.channel_axis:
        return "reads another axis than the channels"
    if not _is_plain(linear):
        return "has no plain nn.Parameters as weight and bias"
    if any(p is not None and owners.of(p) != {linear} for p in (linear.weight, linear.bias)):
        return "shares its weight or bias with another module"
    if linear in consumers.exposed:
        return "has its parameters read by something else"
    if _has_hooks(linear):
        return "has hooks"
    return None


def _is_plain(module: nn.Module) -> bool:
    """True if the module runs its class's forward on ordinary parameters.

    Parameters that are computed, sharded or quantized are not ordinary.
    """
    parameters = module._parameters
    ordinary = all(p is None or type(p) is nn.Parameter for p in parameters.values())
    patched = "forward" in vars(module)  # by a library, such as accelerate
    return ordinary and {"weight", "bias"} <= parameters.keys() and not patched


def _has_hooks(module: nn.Module) -> bool:
    """True if hooks receive values that folding changes; a trace does not run them."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def _fold_into(linear: nn.Linear, layer: DyT | Derf) -> None:
    weight, dtype = linear.weight.double(), linear.weight.dtype
    if layer.bias is not None:
        # For a convolution summed over the positions of its kernel.
        shift = weight.reshape(*weight.shape[:2], -1).sum(2) @ layer.bias.double()
        if linear.bias is not None:
            linear.bias.copy_(linear.bias.double() + shift)
        else:
            trained = linear.weight.requires_grad
            linear.bias = nn.Parameter(shift.to(dtype), requires_grad=trained)
    if layer.weight is not None:
        gamma = layer.weight.double()
        linear.weight.copy_(weight * gamma.view([-1] + [1] * (weight.ndim - 2)))
