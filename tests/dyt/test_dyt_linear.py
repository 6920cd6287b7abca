"""DyTLinear is the two layers, bit by bit, with one activation kept for backward."""

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
    """The module, and the two layers apart with parameters of the same values."""
    layer = NORMS[norm]()
    for p in layer.parameters():
        nn.init.normal_(p, 0.5, 0.3)
    joined = DyTLinear(layer, nn.Linear(8, 5, **options))
    return joined, nn.Sequential(*copy.deepcopy(joined).children())


def run(net, x, dtype=None):
    """The output, and the gradients of x and of every parameter."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "autocast"):
        y = net(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def same(found, expected):
    assert len(found) == len(expected)
    for got, right in zip(found, expected, strict=True):
        assert (got is None) == (right is None)
        assert got is None or (got.dtype == right.dtype and torch.equal(got, right))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_the_two_layers(norm, bias):
    joined, apart = pair(norm, bias=bias)
    same(run(joined, x := torch.randn(2, 3, 8)), run(apart, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, "autocast"])
def test_every_precision(dtype):
    joined, apart = pair()
    x = torch.randn(4, 8)
    if dtype != "autocast":
        joined, apart, x = joined.to(dtype), apart.to(dtype), x.to(dtype)
    found = run(joined, x, dtype)
    assert found[0].dtype == (torch.bfloat16 if dtype == "autocast" else dtype)
    same(found, run(apart, x, dtype))


@pytest.mark.parametrize(
    "x", [torch.randn(8), torch.randn(2, 3, 2, 8), torch.randn(8, 6).t(), torch.randn(0, 8)]
)
def test_any_leading_axes_and_strides(x):
    joined, apart = pair()
    same(run(joined, x), run(apart, x))


NAMES = ("norm.alpha", "norm.weight", "norm.bias", "linear.weight", "linear.bias")


@pytest.mark.parametrize(
    "frozen", [(), ("linear.weight",), NAMES[:3], NAMES, *((name,) for name in NAMES[:3])]
)
@pytest.mark.parametrize("x_wanted", [True, False])
def test_frozen_parameters(frozen, x_wanted):
    joined, apart = pair()
    for name in frozen:
        joined.get_parameter(name).requires_grad_(False)
    for a, b in zip(joined.parameters(), apart.parameters(), strict=True):
        b.requires_grad_(a.requires_grad)
    x = torch.randn(3, 8, requires_grad=x_wanted)
    results = []
    for net in (joined, apart):
        wanted = [t for t in (x, *net.parameters()) if t.requires_grad]
        y = net(x)
        assert y.requires_grad == bool(wanted)
        results.append([y, *(torch.autograd.grad(y.square().sum(), wanted) if wanted else ())])
    same(*results)


def kept(net, x) -> list:
    """The tensors that the forward pass keeps, without those of no element."""
    tensors = []

    def pack(t):
        tensors.append(t)
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        net(x).sum()
    return [t for t in tensors if t.numel()]


@pytest.mark.parametrize("norm", NORMS)
def test_one_activation_is_kept(norm):
    joined, apart = pair(norm)
    x = torch.randn(2, 3, 8, requires_grad=True)
    own = {p.data_ptr() for p in (*joined.parameters(), *apart.parameters())}
    activations = [t for t in kept(joined, x) if t.data_ptr() not in own]
    assert [t.data_ptr() for t in activations] == [x.data_ptr()]
    assert len([t for t in kept(apart, x) if t.data_ptr() not in own]) > 1


class Count(TorchDispatchMode):
    """How often each operator is called."""

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


def test_backward_computes_again_no_more_than_it_needs():
    joined, apart = pair()
    x = torch.randn(3, 8, requires_grad=True)
    found, plain = backward_calls(joined, x), backward_calls(apart, x)
    assert (found["dyt::dyt"], "dyt::dyt" in plain) == (1, False)
    assert (found["mm"], "addmm" in found) == (plain["mm"], False)  # no product of the forward
    joined.linear.weight.requires_grad_(False)
    apart[1].weight.requires_grad_(False)
    assert backward_calls(joined, x) == backward_calls(apart, x)


def test_without_gradients_nothing_is_kept():
    joined, apart = pair()
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert kept(joined, x) == []
        assert torch.equal(joined(x), apart(x))


def test_compiles_as_one_graph_and_trains():
    joined, apart = pair()
    nets = [nn.Sequential(nn.Linear(8, 8), net, nn.GELU()) for net in (joined, apart)]
    nets[1][0].load_state_dict(nets[0][0].state_dict())
    nets[0] = torch.compile(nets[0], fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 8)
    for got, right in zip(*(run(net, x) for net in nets), strict=True):
        torch.testing.assert_close(got, right)


def test_second_derivatives():
    results = []
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    for net in pair():
        wanted = [x, *net.double().parameters()]
        first = torch.autograd.grad(net(x).pow(3).sum(), wanted, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        results.append(torch.autograd.grad(penalty, wanted))
    same(*results)


class Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.net = net
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_of_gradient_checkpointing(reentrant):
    joined, apart = pair()
    x = torch.randn(3, 8)
    same(run(Checkpointed(joined, reentrant), x), run(apart, x))


def test_gradients_per_sample():
    joined, apart = pair()
    x = torch.randn(4, 8)

    def per_sample(net):
        def loss(parameters, x):
            return functional_call(net, parameters, (x,)).square().sum()

        return vmap(grad(loss), (None, 0))(dict(net.named_parameters()), x)

    found, expected = (list(per_sample(net).values()) for net in (joined, apart))
    same(found, expected)


def test_traced():
    joined, apart = pair()
    x = torch.randn(3, 8)
    traced = torch.jit.trace(joined, x)  # which traces twice, and compares
    same(run(traced, 2 * x), run(apart, 2 * x))


def test_forward_mode_differentiation():
    joined, apart = pair()
    x = torch.randn(3, 8)

    def tangent(net):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(net(forward_ad.make_dual(x, 2 * x))).tangent

    same([tangent(joined)], [tangent(apart)])


def test_changing_the_input_before_backward_is_an_error():
    joined, _ = pair()
    x = torch.randn(3, 8)
    y = joined(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_state_dict_is_that_of_a_sequential_with_the_same_names():
    joined, _ = pair("Derf")
    assert set(joined.state_dict()) == {"norm.shift", *NAMES}
    apart = nn.Sequential(OrderedDict(norm=Derf(8), linear=nn.Linear(8, 5)))
    apart.load_state_dict(joined.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(joined(x), apart(x))


def test_the_layers_are_kept_themselves():
    norm, linear = DyT(8), nn.Linear(8, 5)
    joined = DyTLinear(norm, linear)
    assert joined.norm is norm
    assert joined.linear is linear


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.LayerNorm(8), nn.Linear(8, 5)), "got LayerNorm and Linear"),
        ((DyT(8), nn.Conv1d(8, 5, 1)), "got DynamicTanh and Conv1d"),
        ((DyT(8, channel_axis=1), nn.Linear(8, 5)), "channel_axis=-1"),
        ((DyT(7), nn.Linear(8, 5)), "width 7, but linear takes 8"),
    ],
)
def test_layers_that_do_not_go_together(layers, message):
    with pytest.raises(ValueError, match=message):
        DyTLinear(*layers)
