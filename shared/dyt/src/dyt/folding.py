"""Makes a trained network cheaper to run: γ and β of its DyT layers go into the Linears behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from dyt.readers import DYNAMIC, Owners, Readers, observe, trace


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One DyT layer whose γ and β were folded, or why they were not.

    Fields:
        path: the layer's path, such as "blocks.0.norm1"; the first one of a shared layer.
        layer: the name of its class.
        into: the paths of the Linears that took γ and β; empty where the layer stayed as it is.
        new_bias: those of them that had no bias and got one.
        reason: why the layer stayed; None where it did not.
    """

    path: str
    layer: str
    into: tuple[str, ...] = ()
    new_bias: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class FoldReport(Sequence[Fold]):
    """Every layer that had γ or β, in the order of the network's modules; prints as a table.

    Fields:
        layers: what became of each. The report is a sequence of these.
    """

    layers: tuple[Fold, ...]

    @property
    def folded(self) -> tuple[Fold, ...]:
        """The layers that hold α (and s) alone now."""
        return tuple(fold for fold in self if fold.into)

    @property
    def left(self) -> tuple[Fold, ...]:
        """The layers that stayed as they were, each with its reason."""
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
    """Fold γ and β of each DyT and Derf layer into the nn.Linears that read it, for inference.

    W(γ·t + β) + b = (W·diag(γ))·t + (b + W·β), with t = tanh(αx), erf(αx + s) or an ablation: the
    layer is then left with t alone, and the network computes the same up to rounding (and, in
    bfloat16, otherwise rounded). In place. A layer is folded if its output goes into Linears and
    nowhere else, and these read nothing else; all others stay, and the report tells why.

    Who reads what is known by tracing the network (torch.fx), or, if an example of the inputs is
    given (torch 2.6 or newer), from one run of it under no_grad, which follows any Python, and
    views of the output too. A run shows what it runs: give inputs that take the way the network is
    used, and the whole network, with all that shares its layers. A C++ extension that is bound to
    Python by itself, and not as an operator of torch, reads unseen.

    The new weights are computed in float64 and keep dtype, device, requires_grad and the parameter
    object; a Linear without bias gets one where there is a β. In the state dict `weight` and `bias`
    of folded layers are missing, and new biases come in, so load checkpoints first, and save folded
    ones for a network that was folded alike. A second call finds nothing left to do.

    Args:
        model: the network, in evaluation mode; a `DyTLinear` by itself will do.
        example, example_kwargs: for networks that torch.fx cannot trace, such as those of
            transformers: what to call the model with.

    Returns:
        The report: a sequence with what became of each layer that had γ or β.

    Raises:
        ValueError: there is no DyT layer; the model is in training mode; or no example was given
            and torch.fx cannot trace the model. What the model raises on the example passes.
    """
    _check(model)
    paths = {m: path for path, m in model.named_modules()}
    layers = [m for m in model.modules() if isinstance(m, DYNAMIC)]
    layers = [layer for layer in layers if layer.weight is not None or layer.bias is not None]
    if not layers:
        return FoldReport(())
    seen = observe(model, example, example_kwargs) if example or example_kwargs else trace(model)
    owners, folds = Owners(model), []
    reasons = {layer: _why_not(layer, seen, owners, paths) for layer in layers}
    for layer, reason in reasons.items():
        linears = [] if reason else list(seen.linears[layer])
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
    torch.clear_autocast_cache()  # whoever folds within autocast would go on with the old weights
    return FoldReport(tuple(folds))


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"fold needs an nn.Module, but got {type(model).__name__}.")
    if isinstance(model, DYNAMIC):
        raise ValueError(
            f"The model is a {type(model).__name__} itself, with no Linear to fold into: pass the"
            " network that holds it."
        )
    if not any(isinstance(m, DYNAMIC) for m in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no DynamicTanh or DynamicErf to fold: put them in first"
            " with dyt.convert(model), and load their weights."
        )
    training = [path for path, module in model.named_modules() if module.training]
    if training:
        where = f" (here {training[0]!r})" if training[0] else ""
        raise ValueError(
            f"{type(model).__name__} is in training mode{where}, but a folded network is for"
            " inference: call model.eval() first, and keep the unfolded weights for training."
        )


def _why_not(
    layer: nn.Module, seen: Readers, owners: Owners, paths: dict[nn.Module, str]
) -> str | None:
    """The first reason why the layer cannot be folded."""
    if not _is_plain(layer) or type(layer).forward not in (d.forward for d in DYNAMIC):
        return "it computes more than its class, or its parameters are no ordinary ones"
    if layer.channel_axis != -1 or len(layer.normalized_shape) > 1:
        return "its channels are not the last axis alone"
    if _has_hooks(layer):
        return "it has hooks"
    if layer in seen.exposed:
        return "its parameters are read by something else"
    if layer not in seen.called:
        return "no call of it was seen"
    if seen.others[layer]:
        return seen.others[layer][0]
    if not seen.linears[layer]:
        return "nothing reads its output"
    for linear in seen.linears[layer]:
        if reason := _why_not_into(linear, layer, seen, owners):
            return f"{paths[linear]} {reason}"
    return None


def _why_not_into(linear: nn.Linear, layer: nn.Module, seen: Readers, owners: Owners) -> str | None:
    if seen.inputs[linear] != {layer}:
        return "has other inputs, too"
    if not _is_plain(linear):
        return "has no ordinary weight and bias"
    if any(p is not None and owners.of(p) != {linear} for p in (linear.weight, linear.bias)):
        return "shares its weight or bias with another module"
    if linear in seen.exposed:
        return "has its parameters read by something else"
    if _has_hooks(linear):
        return "has hooks"
    return None


def _is_plain(module: nn.Module) -> bool:
    """Whether it runs its class's forward, on parameters not computed, sharded or quantized."""
    own = module._parameters
    ordinary = all(p is None or type(p) is nn.Parameter for p in own.values())
    patched = "forward" in vars(module)  # by a library, such as accelerate
    return ordinary and {"weight", "bias"} <= own.keys() and not patched


def _has_hooks(module: nn.Module) -> bool:
    """Whether hooks see values that folding changes; a trace does not run them."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def _fold_into(linear: nn.Linear, layer: nn.Module) -> None:
    weight, dtype = linear.weight.double(), linear.weight.dtype
    if layer.bias is not None:
        shift = weight @ layer.bias.double()
        if linear.bias is not None:
            linear.bias.copy_(linear.bias.double() + shift)
        else:
            trained = linear.weight.requires_grad
            linear.bias = nn.Parameter(shift.to(dtype), requires_grad=trained)
    if layer.weight is not None:
        linear.weight.copy_(weight * layer.weight.double())
