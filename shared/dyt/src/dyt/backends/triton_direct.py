"""Calls of the GPU kernels without torch's operator, whose dispatch takes longer than the launch.

They are used only on plain tensors, and only if no compiler, tracer, transform or mode is active,
because these must see the operator. The results are those of the operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dyt.backends import triton
from dyt.backends.triton_launch import Forward, Options


def can_call(x: Tensor) -> bool:
    """True if the kernels can be called on x, provided that they support the parameters."""
    return (
        type(x) is Tensor
        and (x.is_cpu if triton.REPLACES_CPU_KERNEL else x.is_cuda)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and triton.PROBLEM is None
    )


def call(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    options: Options,
) -> Tensor | None:
    """Return the output of the operator dyt::dyt, or None if its arguments need the operator.

    Args:
        x: a tensor for which `can_call` is true.
    """
    chosen = triton.choose_forward(x, alpha, shift, weight, bias, options)
    if not chosen.is_plain:
        return None
    if torch.is_grad_enabled() and (
        x.requires_grad
        or alpha.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (shift is not None and shift.requires_grad)
    ):
        return _apply(chosen, options, x, alpha, shift, weight, bias)
    return triton.run_forward(chosen, x, alpha, shift, weight, bias)


class _DyT(torch.autograd.Function):
    """The operator's autograd rule, as in `ops`."""

    @staticmethod
    def forward(ctx: Any, chosen: Forward, options: Options, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.options = options
        return triton.run_forward(chosen, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Any, ...] = ctx.saved_tensors
        if torch.is_grad_enabled() or not (can_call(grad) and type(tensors[0]) is Tensor):
            # The operator can be differentiated once more, and is seen by compilers and modes.
            grads = torch.ops.dyt.dyt_backward(grad, *tensors, *ctx.options)
            grads = (None if t is None else g for t, g in zip(tensors, grads, strict=True))
        else:
            x, alpha, shift, weight, bias = tensors
            grads = triton.compute_gradients(grad, x, alpha, shift, weight, bias, ctx.options)
        return None, None, *grads


# Function.apply without its checks for transforms of torch.func, which are not active here.
_apply: Any = super(torch.autograd.Function, _DyT).apply
