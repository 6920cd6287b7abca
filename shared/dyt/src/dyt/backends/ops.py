"""Defines DyT as one operator of torch, of which backward keeps the input alone and no activation.

torch.ops.dyt.dyt and torch.ops.dyt.dyt_backward run the plain formula wherever no kernel is
registered for a device. What torch has to know of an operator besides is here: shapes for compilers
and meta tensors, gradients of every order. Autocast needs no rule: it lets the operator
through, and the result's dtype follows from the inputs' as the formula's does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyt.backends.reference import formula, gradients, result_dtype

Optional = Tensor | None

_ARGUMENTS = (
    "Tensor x, Tensor alpha, Tensor? shift, Tensor? weight, Tensor? bias,"
    " str squash, int channel_axis, bool accurate"
)

library = torch.library.Library("dyt", "DEF")
library.define(f"dyt({_ARGUMENTS}) -> Tensor")
library.define(
    f"dyt_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _forward(
    x: Tensor,
    alpha: Tensor,
    shift: Optional,
    weight: Optional,
    bias: Optional,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> Tensor:
    return formula(x, alpha, shift, weight, bias, squash, channel_axis).contiguous()


def _backward(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    shift: Optional,
    weight: Optional,
    bias: Optional,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> tuple[Tensor, ...]:
    found = gradients(grad, x, alpha, shift, weight, bias, squash, channel_axis)
    return tuple(v.contiguous() for v in found)


library.impl("dyt", _forward, "CompositeExplicitAutograd")
library.impl("dyt_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("dyt::dyt", lib=library)
def _forward_shape(
    x: Tensor,
    alpha: Tensor,
    shift: Optional,
    weight: Optional,
    bias: Optional,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> Tensor:
    return x.new_empty(x.shape, dtype=result_dtype(x, alpha, shift, weight, bias))


@torch.library.register_fake("dyt::dyt_backward", lib=library)
def _backward_shapes(
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    shift: Optional,
    weight: Optional,
    bias: Optional,
    squash: str,
    channel_axis: int,
    accurate: bool,
) -> tuple[Tensor, ...]:
    nothing = torch.promote_types(grad.dtype, torch.float32)
    return tuple(
        x.new_empty(0, dtype=nothing) if like is None else like.new_empty(like.shape)
        for like in (x, alpha, shift, weight, bias)
    )


def _keep(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, ctx.squash, ctx.channel_axis, ctx.accurate = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    tensors = ctx.saved_tensors
    found = torch.ops.dyt.dyt_backward(grad, *tensors, ctx.squash, ctx.channel_axis, ctx.accurate)
    wanted = (None if t is None else g for t, g in zip(tensors, found, strict=True))
    return *wanted, None, None, None


def _differentiate_twice(ctx: Any, *grads: Tensor) -> tuple:
    """Second derivatives, for gradient penalties: those of the formula's gradients.

    Autograd differentiates these further, if a graph of them is wanted (create_graph).
    """
    further = torch.is_grad_enabled()

    def apart(t: Tensor) -> Tensor:
        """t as an input of its own: no gradient comes to it by way of another input."""
        return t.view_as(t) if further and t.requires_grad else t.detach().requires_grad_()

    given = ctx.saved_tensors
    with torch.enable_grad():
        inputs = [None if t is None else apart(t) for t in given]
        outputs = gradients(*inputs, ctx.squash, ctx.channel_axis)
        used = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        wanted = [t for t in inputs if t is not None]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in used],
                wanted,
                [g for _, g in used],
                create_graph=further,
                allow_unused=True,
            )
        )
    return *(None if t is None else next(found) for t in inputs), None, None, None


torch.library.register_autograd("dyt::dyt", _differentiate, setup_context=_keep, lib=library)
torch.library.register_autograd(
    "dyt::dyt_backward", _differentiate_twice, setup_context=_keep, lib=library
)
