"""DyT as a custom torch operator, which saves only its inputs for backward and no activation.

torch.ops.dyt.dyt and torch.ops.dyt.dyt_backward run the plain formula on every device without a
registered kernel. This module also registers what torch needs for an operator: shapes for compilers
and meta tensors, and gradients of any order. Autocast needs no rule: it does not cast the
operator's inputs, and the result's dtype follows from theirs by the formula's type promotion.
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
    grads = gradients(grad, x, alpha, shift, weight, bias, squash, channel_axis)
    return tuple(g.contiguous() for g in grads)


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
    dtype_if_none = torch.promote_types(grad.dtype, torch.float32)
    return tuple(
        x.new_empty(0, dtype=dtype_if_none) if like is None else like.new_empty(like.shape)
        for like in (x, alpha, shift, weight, bias)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.squash, ctx.channel_axis, ctx.accurate = inputs
    ctx.save_for_backward(*tensors)


def _first_derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    grads = torch.ops.dyt.dyt_backward(grad, *tensors, ctx.squash, ctx.channel_axis, ctx.accurate)
    present = (None if t is None else g for t, g in zip(tensors, grads, strict=True))
    return *present, None, None, None


def _second_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate the formula's gradients, for second derivatives as in gradient penalties.

    With create_graph, autograd can differentiate the result further.
    """
    create_graph = torch.is_grad_enabled()

    def as_separate_input(t: Tensor) -> Tensor:
        """Return t as a separate input that receives no gradient through another input."""
        return t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_()

    with torch.enable_grad():
        inputs = [None if t is None else as_separate_input(t) for t in ctx.saved_tensors]
        grad, x, alpha, shift, weight, bias = inputs
        assert grad is not None and x is not None and alpha is not None
        outputs = gradients(grad, x, alpha, shift, weight, bias, ctx.squash, ctx.channel_axis)
        used = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        present = [t for t in inputs if t is not None]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in used],
                present,
                [g for _, g in used],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return *(None if t is None else next(found) for t in inputs), None, None, None


torch.library.register_autograd(
    "dyt::dyt", _first_derivative, setup_context=_setup_context, lib=library
)
torch.library.register_autograd(
    "dyt::dyt_backward", _second_derivative, setup_context=_setup_context, lib=library
)
