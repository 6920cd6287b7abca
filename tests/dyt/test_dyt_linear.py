"""Tests of `DyTLinear`: bit-identical to its two layers, with one activation saved for backward."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dyt import Derf, DyT, DyTLinear

NORMS = {
    "DyT": lambda: DyT(8),
    "Derf": lambda: Derf(8, shift0=0.3),
    "no bias": lambda: DyT(8, bias=False),
    "no affine": lambda: DyT(8, affine=False),
    "any width": lambda: DyT(None, affine=False),
    "no alpha": lambda: DyT(8, alpha="absent", squash="hardtanh"),
    "two axes": lambda: DyT((3, 8)),
}


def pair(norm="DyT", **options) -> tuple[DyTLinear, nn.Sequential]:
    """Return the module, and the two separate layers with equal parameters."""
    layer = NORMS[norm]()
    for p in layer.parameters():
        nn.init.normal_(p, 0.5, 0.3)
    joined = DyTLinear(layer, nn.Linear(8, 5, **options))
    separate = nn.Sequential(*copy.deepcopy(joined).children())
    return joined, separate


def run(net, x, dtype=None):
    """Return the output and the gradients of x and of every parameter."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "autocast"):
        y = net(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for got, right in zip(found, expected, strict=True):
        assert (got is None) == (right is None)
        assert got is None or (got.dtype == right.dtype and torch.equal(got, right))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_dyt_linear_equals_two_layers(norm, bias):
    joined, separate = pair(norm, bias=bias)
    assert_same(run(joined, x := torch.randn(2, 3, 8)), run(separate, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, "autocast"])
def test_dyt_linear_in_other_precisions(dtype):
    joined, separate = pair()
    x = torch.randn(4, 8)
    if dtype != "autocast":
        joined, separate, x = joined.to(dtype), separate.to(dtype), x.to(dtype)
    found = run(joined, x, dtype)
    assert found[0].dtype == (torch.bfloat16 if dtype == "autocast" else dtype)
    assert_same(found, run(separate, x, dtype))


@pytest.mark.parametrize(
    "x", [torch.randn(8), torch.randn(2, 3, 2, 8), torch.randn(8, 6).t(), torch.randn(0, 8)]
)
def test_dyt_linear_leading_axes_and_strides(x):
    joined, separate = pair()
    assert_same(run(joined, x), run(separate, x))


NAMES = ("norm.alpha", "norm.weight", "norm.bias", "linear.weight", "linear.bias")


@pytest.mark.parametrize(
    "frozen", [(), ("linear.weight",), NAMES[:3], NAMES, *((name,) for name in NAMES[:3])]
)
@pytest.mark.parametrize("x_wanted", [True, False])
def test_dyt_linear_with_frozen_parameters(frozen, x_wanted):
    joined, separate = pair()
    for name in frozen:
        joined.get_parameter(name).requires_grad_(False)
    for a, b in zip(joined.parameters(), separate.parameters(), strict=True):
        b.requires_grad_(a.requires_grad)
    x = torch.randn(3, 8, requires_grad=x_wanted)
    results = []
    for net in (joined, separate):
        inputs = [t for t in (x, *net.parameters()) if t.requires_grad]
        y = net(x)
        assert y.requires_grad == bool(inputs)
        results.append([y, *(torch.autograd.grad(y.square().sum(), inputs) if inputs else ())])
    assert_same(*results)


def saved_tensors(net, x) -> list:
    """Return the nonempty tensors that the forward pass saves for backward."""
    tensors = []

    def pack(t):
        tensors.append(t)
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        net(x).sum()
    return [t for t in tensors if t.numel()]


@pytest.mark.parametrize("norm", NORMS)
def test_dyt_linear_saves_one_activation(norm):
    joined, separate = pair(norm)
    x = torch.randn(2, 3, 8, requires_grad=True)
    own = {p.data_ptr() for p in (*joined.parameters(), *separate.parameters())}
    activations = [t for t in saved_tensors(joined, x) if t.data_ptr() not in own]
    assert [t.data_ptr() for t in activations] == [x.data_ptr()]
    assert len([t for t in saved_tensors(separate, x) if t.data_ptr() not in own]) > 1


class Count(TorchDispatchMode):
    """Count the calls of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.removeprefix("aten::")
        self.calls[name] = self.calls.get(name, 0) + 1
        return operator(*args, **(kwargs or {}))


def backward_calls(net, x) -> dict:
    y = net(x).sum()
    with Count() as count:
        y.backward()
    return count.calls


def test_dyt_linear_backward_recomputes_only_dyt():
    joined, separate = pair()
    x = torch.randn(3, 8, requires_grad=True)
    found, plain = backward_calls(joined, x), backward_calls(separate, x)
    assert (found["dyt::dyt"], "dyt::dyt" in plain) == (1, False)
    assert (found["mm"], "addmm" in found) == (plain["mm"], False)  # no forward matrix product
    joined.linear.weight.requires_grad_(False)
    separate[1].weight.requires_grad_(False)
    assert backward_calls(joined, x) == backward_calls(separate, x)


def test_dyt_linear_saves_nothing_without_gradients():
    joined, separate = pair()
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert saved_tensors(joined, x) == []
        assert torch.equal(joined(x), separate(x))


def test_dyt_linear_compiles_as_one_graph_and_trains():
    joined, separate = pair()
    nets = [nn.Sequential(nn.Linear(8, 8), net, nn.GELU()) for net in (joined, separate)]
    nets[1][0].load_state_dict(nets[0][0].state_dict())
    nets[0] = torch.compile(nets[0], fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 8)
    for got, right in zip(*(run(net, x) for net in nets), strict=True):
        torch.testing.assert_close(got, right)


def test_dyt_linear_second_derivatives():
    results = []
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    for net in pair():
        inputs = [x, *net.double().parameters()]
        first = torch.autograd.grad(net(x).pow(3).sum(), inputs, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        results.append(torch.autograd.grad(penalty, inputs))
    assert_same(*results)


class Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.net = net
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_dyt_linear_inside_gradient_checkpointing(reentrant):
    joined, separate = pair()
    x = torch.randn(3, 8)
    assert_same(run(Checkpointed(joined, reentrant), x), run(separate, x))


def test_dyt_linear_per_sample_gradients():
    joined, separate = pair()
    x = torch.randn(4, 8)

    def per_sample(net):
        def loss(parameters, x):
            return functional_call(net, parameters, (x,)).square().sum()

        return vmap(grad(loss), (None, 0))(dict(net.named_parameters()), x)

    found, expected = (list(per_sample(net).values()) for net in (joined, separate))
    assert_same(found, expected)


def test_dyt_linear_under_jit_trace():
    joined, separate = pair()
    x = torch.randn(3, 8)
    traced = torch.jit.trace(joined, x)  # traces twice and compares the results
    assert_same(run(traced, 2 * x), run(separate, 2 * x))


def test_dyt_linear_forward_mode_differentiation():
    joined, separate = pair()
    x = torch.randn(3, 8)

    def tangent(net):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(net(forward_ad.make_dual(x, 2 * x))).tangent

    assert_same([tangent(joined)], [tangent(separate)])


def test_dyt_linear_rejects_input_modified_before_backward():
    joined, _ = pair()
    x = torch.randn(3, 8)
    y = joined(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_dyt_linear_state_dict_equals_named_sequential():
    joined, _ = pair("Derf")
    assert set(joined.state_dict()) == {"norm.shift", *NAMES}
    separate = nn.Sequential(OrderedDict(norm=Derf(8), linear=nn.Linear(8, 5)))
    separate.load_state_dict(joined.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(joined(x), separate(x))


def test_dyt_linear_keeps_the_given_layers():
    norm, linear = DyT(8), nn.Linear(8, 5)
    joined = DyTLinear(norm, linear)
    assert joined.norm is norm
    assert joined.linear is linear


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.LayerNorm(8), nn.Linear(8, 5)), "got LayerNorm and Linear"),
        ((DyT(8), nn.Conv1d(8, 5, 1)), "got DyT and Conv1d"),
        ((DyT(8, channel_axis=1), nn.Linear(8, 5)), "channel_axis=-1"),
        ((DyT(7), nn.Linear(8, 5)), "width 7, but linear takes 8"),
    ],
)
def test_dyt_linear_rejects_incompatible_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        DyTLinear(*layers)
