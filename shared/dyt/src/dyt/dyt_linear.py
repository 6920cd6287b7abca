"""`DyTLinear`: DyT and the following Linear as one module that saves a single activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dyt.functional import under_transform
from dyt.layers import Derf, DyT


class DyTLinear(nn.Module):
    """Linear(DyT(x)), which saves only the input x for backward.

    Two separate layers save two activations: x, and DyT's output, which the gradient of the
    Linear's weight requires (and a third, tanh(αx), if no kernel computes DyT). Here backward
    recomputes them from x by the same operations, so output and gradients are bit-identical to
    those of the two layers: element-wise work is traded for memory, and no matrix product is
    computed twice. If the Linear's weight is frozen, and under torch.func's transforms (vmap,
    grad), forward-mode differentiation and torch.jit.trace, the module runs as the two layers.
    Autocast, torch.compile, gradient checkpointing and second derivatives work as with these.

    Backward also reads the parameters again: step the optimizer after it, not before. Hooks on the
    two layers run a second time in backward.

    Shapes: input (…, in_features), output (…, out_features). Its state dict has the keys of
    nn.Sequential(OrderedDict(norm=norm, linear=linear)): `norm.alpha`, `norm.weight`, `norm.bias`
    (and `norm.shift` of Derf), `linear.weight` and `linear.bias`.

    Args:
        norm: a DyT or Derf with channels last; this object becomes the submodule
            `norm`.
        linear: the nn.Linear that takes its output; this object becomes the submodule `linear`.

    Raises:
        ValueError: layers of another class, channels at axis 1, or widths that differ.
    """

    def __init__(self, norm: DyT | Derf, linear: nn.Linear) -> None:
        super().__init__()
        _check(norm, linear)
        self.norm = norm
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, in_features) to (…, out_features).

        Raises:
            ValueError: x does not have the width of the layers.
        """
        # checkpoint uses hooks on saved tensors, which torch.jit.trace cannot record.
        needs_grad = torch.is_grad_enabled() and self.linear.weight.requires_grad
        if needs_grad and not under_transform() and not torch.jit.is_tracing():
            return _recompute_in_backward(self._apply_both, x)
        return self._apply_both(x)

    def _apply_both(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def _recompute_in_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return function(x), recomputing its saved tensors from x when backward needs them.

    Recomputation stops at the last tensor needed, which the Linear saves before its matrix product.
    Neither layer draws random numbers, so no generator state has to be restored.
    """
    return checkpoint(
        function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )


def _check(norm: object, linear: object) -> None:
    if not (isinstance(norm, (DyT, Derf)) and isinstance(linear, nn.Linear)):
        raise ValueError(
            "DyTLinear takes a DyT or Derf and an nn.Linear, but got"
            f" {type(norm).__name__} and {type(linear).__name__}. Build it as in"
            " DyTLinear(DyT(768), nn.Linear(768, 3072))."
        )
    if norm.channel_axis != -1:
        raise ValueError(
            "norm has its channels at axis 1, but nn.Linear reads the last axis. Build norm with"
            " channel_axis=-1."
        )
    if norm.normalized_shape is not None and norm.normalized_shape[-1] != linear.in_features:
        raise ValueError(
            f"norm has width {norm.normalized_shape[-1]}, but linear takes {linear.in_features}"
            " features. Build them with the same width."
        )
