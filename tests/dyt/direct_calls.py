"""Checks of test_triton_direct.py, run in a process with Triton's interpreter."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import dyt.functional
from dyt import Derf, DyT
from dyt.backends import triton, triton_direct


class Seen(TorchDispatchMode):
    """Records the names of the operators of dyt."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "dyt":
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def count_calls(names: tuple[str, ...]) -> dict[str, int]:
    """Count the calls of functions of `triton_direct` and `triton` from now on."""
    counts = dict.fromkeys(names, 0)

    def counted(module, name):
        original = getattr(module, name)

        def call(*arguments):
            counts[name] += 1
            return original(*arguments)

        setattr(module, name, call)

    for name in names:
        counted(triton_direct if name == "_apply" else triton, name)
    return counts


def compare_with_operator() -> None:
    """Outputs and all gradients of both ways are bitwise equal."""
    torch.manual_seed(0)
    for layer in (DyT(8), Derf(8), DyT(8, affine=False)):
        for dtype in (torch.float32, torch.bfloat16):
            layer.to(dtype)
            x = torch.randn(5, 8, dtype=dtype, requires_grad=True)
            inputs = [x, *layer.parameters()]
            y = layer(x)
            assert "_DyT" in type(y.grad_fn).__name__
            shift = getattr(layer, "shift", None)
            given = (layer.alpha, shift, layer.weight, layer.bias, layer.squash, -1, False)
            expected = torch.ops.dyt.dyt(x, *given)
            assert torch.equal(y, expected) and y.dtype == expected.dtype
            grad = torch.randn_like(y)
            found = torch.autograd.grad(y, inputs, grad)
            assert all(map(torch.equal, found, torch.autograd.grad(expected, inputs, grad)))
            with torch.no_grad():
                assert torch.equal(layer(x), expected) and layer(x).grad_fn is None
            with torch.inference_mode():
                assert torch.equal(layer(x), expected)


def differentiate_twice() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    layer = DyT(4)
    (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    formula = dyt.functional.dyt(x, layer.alpha, layer.weight, layer.bias, backend="reference")
    (expected,) = torch.autograd.grad(formula.sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-6)


def differentiate_each_tensor_alone() -> None:
    """A gradient is computed if any of the tensors needs one, and for that one alone."""
    layer, x = Derf(4), torch.randn(3, 4)
    tensors = [x, layer.alpha, layer.shift, layer.weight, layer.bias]
    for wanted in tensors:
        for tensor in tensors:
            tensor.requires_grad_(tensor is wanted)
            tensor.grad = None
        y = layer(x)
        assert "_DyT" in type(y.grad_fn).__name__
        y.sum().backward()
        assert [tensor.grad is not None for tensor in tensors] == [t is wanted for t in tensors]


def call_the_operator_under_modes_and_transforms() -> None:
    x, layer = torch.randn(3, 4), DyT(4)
    counts = count_calls(("choose_forward",))
    with Seen() as seen:
        y = layer(x)
    assert seen.names == ["dyt::dyt"]
    with Seen() as seen:
        y.sum().backward()
    assert seen.names == ["dyt::dyt_backward"]
    y = layer(x)  # direct, and its backward pass under a mode
    with Seen() as seen:
        y.sum().backward()
    assert seen.names == ["dyt::dyt_backward"]
    direct = counts["choose_forward"]
    mapped = torch.func.vmap(layer)(x)
    torch.testing.assert_close(mapped, layer(x))
    with torch.device("cpu"):
        assert not triton_direct.can_call(x)
    with forward_ad.dual_level():
        assert not triton_direct.can_call(x)
    assert triton_direct.can_call(x)
    traced = torch.jit.trace(layer, x)
    assert "dyt::dyt" in str(traced.graph)
    assert counts["choose_forward"] > direct


def leave_other_tensors_to_the_operator() -> None:
    class Other(torch.Tensor):
        pass

    x, layer = torch.randn(3, 4), DyT(4)
    assert not triton_direct.can_call(x.as_subclass(Other))
    assert not triton_direct.can_call(nn.Parameter(x))
    assert not triton_direct.can_call(x.to("meta"))
    options = ("tanh", -1, False)
    other = layer.weight.detach().as_subclass(Other)
    assert triton_direct.call(x, layer.alpha, None, other, None, options) is None
    assert triton_direct.call(x, layer.alpha.double(), None, None, None, options) is None
    assert triton_direct.call(x.double(), layer.alpha, None, None, None, options) is None
    assert triton_direct.call(torch.tensor(1.0), layer.alpha, None, None, None, options) is None
    assert layer.double()(x.double()).dtype == torch.float64  # by the formula
    with pytest.raises(ValueError, match="DyT of width 4 got an input of shape"):
        layer(torch.randn(3, 5))


def follow_changes_of_a_layer() -> None:
    """Dtype, strides and width change between calls, and so do the parameters themselves."""
    layer, x = DyT(4), torch.randn(6, 4)
    first = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(layer(x), 2 * first)
    assert layer(x.bfloat16()).dtype == torch.float32
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    layer.float()
    torch.testing.assert_close(layer(x.t().contiguous().t()), layer(x))
    torch.testing.assert_close(layer(x[::2]), layer(x)[::2])
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    torch.testing.assert_close(layer(x), 4 * first)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight
