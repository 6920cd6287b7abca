"""Joins DyT and the Linear after it into one module that keeps one activation for backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dyt.functional import under_transform
from dyt.layers import DynamicErf, DynamicTanh


class DyTLinear(nn.Module):
    """Linear(DyT(x)), of which backward keeps the input x and no other activation.

    The two layers apart keep two: x, and DyT's output, which the gradient of the Linear's weight
    needs (and tanh(αx) where no kernel computes DyT). Here backward computes them again from x by
    the same operations, so output and gradients are the two layers' to the last bit: element-wise
    work for memory, and no matrix product twice. Where the Linear's weight is frozen, under
    torch.func's transforms (vmap, grad), forward-mode differentiation and torch.jit.trace, they
    simply are the two layers. Autocast, torch.compile, gradient checkpointing and second
    derivatives go as with these.

    Backward reads the parameters again too: step the optimizer after it, not before. Hooks on the
    two layers run in backward once more.

    Shapes: input (…, in_features), output (…, out_features). Its state dict has the keys of
    nn.Sequential(OrderedDict(norm=norm, linear=linear)): `norm.alpha`, `norm.weight`, `norm.bias`
    (and `norm.shift` of Derf), `linear.weight` and `linear.bias`.

    Args:
        norm: a DynamicTanh or DynamicErf with channels last; the module keeps the very layer,
            with its parameters, as `norm`.
        linear: the nn.Linear that takes its output; kept as `linear`.

    Raises:
        ValueError: layers of another kind, channels at axis 1, or widths that do not fit.
    """

    def __init__(self, norm: DynamicTanh | DynamicErf, linear: nn.Linear) -> None:
        super().__init__()
        _check(norm, linear)
        self.norm = norm
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in_features) → (…, out_features).

        Raises:
            ValueError: x does not have the width of the layers.
        """
        # checkpoint works by hooks on saved tensors, which a trace of torch.jit cannot hold.
        wanted = torch.is_grad_enabled() and self.linear.weight.requires_grad
        if wanted and not under_transform() and not torch.jit.is_tracing():
            return _from_input(self._both, x)
        return self._both(x)

    def _both(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def _from_input(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), whose saved tensors are computed again from x when backward asks for them.

    That stops at the last tensor that is asked for, which the Linear saves before it multiplies.
    Neither layer draws random numbers, so there is no state of a generator to restore.
    """
    return checkpoint(
        function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )


def _check(norm: object, linear: object) -> None:
    if not (isinstance(norm, (DynamicTanh, DynamicErf)) and isinstance(linear, nn.Linear)):
        raise ValueError(
            "DyTLinear takes a DynamicTanh or DynamicErf and an nn.Linear, but got"
            f" {type(norm).__name__} and {type(linear).__name__}: as in"
            " DyTLinear(DyT(768), nn.Linear(768, 3072))."
        )
    if norm.channel_axis != -1:
        raise ValueError(
            "norm has its channels at axis 1, but nn.Linear reads the last axis: build the layer"
            " with channel_axis=-1."
        )
    if norm.normalized_shape is not None and norm.normalized_shape[-1] != linear.in_features:
        raise ValueError(
            f"norm has width {norm.normalized_shape[-1]}, but linear takes {linear.in_features}"
            " features: they have to be equal."
        )
