"""Tests of `fold`: γ and β merged into the following Linears, and the layers left unchanged."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dyt import Derf, DyT, DyTLinear, fold

from .folding_checks import EXAMPLE, X, assert_reason, fold_and_compare, randomized, sequential


@EXAMPLE
@pytest.mark.parametrize(
    "norm",
    [DyT(8), Derf(8), DyT(8, bias=False), *(DyT(8, squash=s) for s in ("hardtanh", "sigmoid"))],
)
@pytest.mark.parametrize("bias", [True, False])
def test_fold_into_one_linear(norm, bias, example):
    net = randomized(sequential(copy.deepcopy(norm), bias=bias))
    head = net.head.weight
    report = fold_and_compare(net, X, folded=1, example=example)
    assert (net.norm.weight, net.norm.bias) == (None, None)
    assert "affine=False" in repr(net.norm)
    assert net.head.weight is head
    assert (net.head.bias is None) == (not bias and norm.bias is None)
    assert report[0].path == "norm"
    assert report[0].into == ("head",)
    assert report[0].new_bias == (("head",) if not bias and norm.bias is not None else ())


@EXAMPLE
def test_second_fold_changes_nothing(example):
    net = randomized(sequential())
    arguments = (X,) if example else ()
    fold(net, *arguments)
    after = copy.deepcopy(net.state_dict())
    assert len(fold(net, *arguments)) == 0
    assert all(torch.equal(value, after[key]) for key, value in net.state_dict().items())


def test_fold_state_dict():
    net = randomized(sequential(bias=False))
    fold(net)
    assert list(net.state_dict()) == [
        "fc.weight",
        "fc.bias",
        "norm.alpha",
        "head.weight",
        "head.bias",
    ]
    other = randomized(sequential(bias=False))
    fold(other)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(X), net(X))


def test_fold_keeps_dtype_and_requires_grad():
    net = randomized(sequential(bias=False)).to(torch.bfloat16)
    net.head.requires_grad_(False)
    fold_and_compare(net, X.bfloat16(), folded=1, tolerance=2**-5)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert not net.head.bias.requires_grad
    assert net.norm.alpha.requires_grad


def test_fold_rounds_weights_once():
    net = randomized(sequential())
    exact = copy.deepcopy(net).double()
    expected = (
        exact.head.weight * exact.norm.weight,
        exact.head.bias + (exact.head.weight @ exact.norm.bias),
    )
    fold(net)
    assert torch.equal(net.head.weight, expected[0].float())
    assert torch.equal(net.head.bias, expected[1].float())


class Attention(nn.Module):
    """q, k and v read one layer; the function `also` adds further consumers."""

    def __init__(self, also=None) -> None:
        super().__init__()
        self.norm = DyT(8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.also = also

    def forward(self, x, scale=None):
        if scale is not None:
            x = x * scale
        y = self.norm(x)
        out = F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y))
        return out if self.also is None else self.also(self, x, y, out)


@EXAMPLE
def test_fold_into_several_linears(example):
    net = randomized(Attention())
    report = fold_and_compare(net, X, folded=1, example=example)
    assert report[0].into == report[0].new_bias == ("q", "k", "v")


# Other uses of the layer's output y or of its Linears, and a pattern of the reported reason.
OTHERS = {
    "residual": (lambda net, x, y, out: out + y, "add"),
    "view that is read": (lambda net, x, y, out: out + y.view(12, 8).mean(0), "mean|view"),
    "returned": (lambda net, x, y, out: (out, y), "return"),
    "shared linear": (lambda net, x, y, out: out + net.k(x), "k has other inputs"),
    "linear of a sum": (lambda net, x, y, out: out + net.k(out), "k has other inputs"),
    "weight read": (
        lambda net, x, y, out: F.linear(out, net.v.weight),
        "v has its parameters read",
    ),
    "gamma read": (lambda net, x, y, out: out * net.norm.weight, "its parameters are read"),
    "second call": (lambda net, x, y, out: out + net.norm(out), "add"),
}


@EXAMPLE
@pytest.mark.parametrize("other", OTHERS)
def test_fold_leaves_layers_with_other_consumers(other, example):
    also, reason = OTHERS[other]
    net = randomized(Attention(also))
    before = copy.deepcopy(net.state_dict())
    report = fold(net, X) if example else fold(net)
    assert len(report.left) == 1
    assert_reason(report, reason)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class Uses(nn.Module):
    """A layer and a Linear, used by a function of them and the input."""

    def __init__(self, use):
        super().__init__()
        self.norm, self.head, self.use = DyT(8), nn.Linear(8, 5), use

    def forward(self, x):
        return self.use(self.norm, self.head, x)


def read_twice(norm, head, x):
    y = norm(x)
    return head(y) + y.sum() + torch.exp(y).mean()


def hidden(norm, head, x):
    norm(x)
    return head(x)


@EXAMPLE
@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda norm, head, x: head(x), "it is never called"),
        (hidden, "nothing reads its output"),
        (
            lambda norm, head, x: head(norm(x)) + norm.weight.sum(),
            "its parameters are read by something else",
        ),
        (lambda norm, head, x: head(norm(x)) + head(x), "head has other inputs as well"),
        (
            lambda norm, head, x: head(norm(x)) + head.bias,
            "head has its parameters read by something else",
        ),
        (
            lambda norm, head, x: head(norm(x)) + norm.bias.sum() + head.weight.sum(),
            "its parameters are read by something else",
        ),
    ],
    ids=["never called", "unread", "γ is read", "another input", "bias is read", "both are read"],
)
def test_fold_gives_the_reason_why_a_layer_is_left(use, reason, example):
    report = fold_and_compare(randomized(Uses(use)), X, folded=0, example=example)
    assert report[0].reason == reason


def test_fold_gives_the_first_reader_as_the_reason():
    report = fold_and_compare(randomized(Uses(read_twice)), X, folded=0, example=False)
    assert report[0].reason == "sum reads its output"
    report = fold_and_compare(randomized(Uses(read_twice)), X, folded=0, example=True)
    assert report[0].reason == "aten.sum.default reads its output"


def test_fold_reads_of_the_size_are_no_readers():
    def use(norm, head, x):
        y = norm(x)
        return head(y) * y.shape[0] * y.size(1) * y.ndim * y.dim()

    fold_and_compare(randomized(Uses(use)), X, folded=1, example=False)


@EXAMPLE
def test_fold_leaves_a_linear_that_shares_its_bias(example):
    network = Uses(lambda norm, head, x: head(norm(x)))
    network.other = nn.Linear(8, 5)
    network.head.bias = network.other.bias
    report = fold_and_compare(randomized(network), X, folded=0, example=example)
    assert report[0].reason == "head shares its weight or bias with another module"


@EXAMPLE
def test_fold_of_layer_and_linears_called_twice(example):
    net = randomized(Attention(lambda net, x, y, out: net.k(net.norm(out))))
    fold_and_compare(net, X, folded=1, example=example)


@EXAMPLE
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: setattr(net.fc, "weight", net.head.weight), "head shares its weight"),
        (lambda net: parametrizations.weight_norm(net.head), "no plain nn.Parameters as weight"),
        (lambda net: net.head.register_forward_hook(lambda *_: None), "head has hooks"),
        (lambda net: net.norm.register_forward_pre_hook(lambda *_: None), "it has hooks"),
    ],
)
def test_fold_leaves_tied_parametrized_or_hooked_linears(change, reason, example):
    net = randomized(sequential())
    net.head = nn.Linear(8, 8)
    change(net)
    net.eval()
    report = fold(net, X) if example else fold(net)
    assert_reason(report, reason)
    assert net.norm.weight is not None


@EXAMPLE
@pytest.mark.parametrize(
    ("norm", "x", "reader"),
    [
        (DyT(8, channel_axis=1), torch.randn(2, 8, 4), nn.Conv1d(8, 4, 3, padding=1)),
        (DyT(8, channel_axis=1), torch.randn(2, 8, 8), nn.Linear(8, 5)),
        (DyT((4, 8)), X, nn.Linear(8, 5)),
        (DyT(8), X, nn.GELU()),
        (DyT(8), X, nn.Bilinear(8, 8, 2)),
    ],
)
def test_fold_leaves_other_layouts_and_consumers(norm, x, reader, example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.reader = norm, reader

        def forward(self, x):
            y = self.norm(x)
            return self.reader(y, y) if isinstance(self.reader, nn.Bilinear) else self.reader(y)

    fold_and_compare(randomized(Net()), x, folded=0, example=example)


@EXAMPLE
def test_fold_through_dropout_and_identity(example):
    net = nn.Sequential(DyT(8), nn.Dropout(0.5), nn.Identity(), nn.Linear(8, 5))
    fold_and_compare(randomized(net), X, folded=1, example=example)


@EXAMPLE
def test_fold_leaves_subclass_with_custom_forward(example):
    class Twice(DyT):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Twice(8), nn.Linear(8, 5))
    report = fold_and_compare(randomized(net), X, folded=0, example=example)
    assert "more than its class" in report[0].reason


@EXAMPLE
def test_fold_two_layers_with_shared_gamma(example):
    net = nn.Sequential(DyT(8), nn.Linear(8, 8), DyT(8), nn.Linear(8, 5))
    net[2].weight = net[0].weight
    fold_and_compare(randomized(net), X, folded=2, example=example)


@EXAMPLE
def test_fold_with_keyword_inputs_and_defaults(example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = DyT(8), nn.Linear(8, 5)

        def forward(self, x, *, scale=None):
            y = self.norm(x)
            return self.fc(input=y if scale is None else y * scale)

    fold_and_compare(randomized(Net()), x=X, folded=1, example=example)


@EXAMPLE
def test_fold_leaves_multihead_attention(example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attn = DyT(8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.norm(x)
            return self.attn(y, y, y)[0]

    report = fold_and_compare(randomized(Net()), X, folded=0, example=example)
    assert "attn" in report[0].reason


@EXAMPLE
def test_fold_leaves_no_hooks_or_proxies(example):
    def remember(net, x, y, out):
        net.last = out
        return out

    net = randomized(Attention(remember))
    net.last = None
    fold(net, X) if example else fold(net)
    assert net.last is None or isinstance(net.last, torch.Tensor)  # no proxy of the trace
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_fold_removes_hooks_after_failing_example():
    net = randomized(sequential())
    with pytest.raises(RuntimeError):
        fold(net, torch.randn(3, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@EXAMPLE
def test_fold_dyt_linear(example):
    net = randomized(DyTLinear(DyT(8), nn.Linear(8, 5)))
    fold_and_compare(net, X, folded=1, example=example)
    net = randomized(nn.Sequential(nn.Linear(8, 8), DyTLinear(Derf(8), nn.Linear(8, 5))))
    fold_and_compare(net, X, folded=1, example=example)


def test_fold_under_autocast():
    net = randomized(sequential())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fold_and_compare(net, X, folded=1, tolerance=2**-5)


def test_fold_report_prints_table():
    net = randomized(Attention(lambda net, x, y, out: net.last(out)))
    net.last = nn.Sequential(DyT(8), nn.GELU()).eval()
    assert str(fold(net)).splitlines() == [
        "path    layer  folded into",
        "norm    DyT    q (new bias), k (new bias), v (new bias)",
        "last.0  DyT    left: last.1 (GELU) reads its output",
        "1 of 2 layers with γ or β folded",
    ]


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = DyT(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.norm(x)) if x.sum() < 100 else x


def test_fold_asks_for_example_if_untraceable():
    net = randomized(Untraceable())
    with pytest.raises(ValueError, match=r"Pass an example of the inputs.*fold\(model, images\)"):
        fold(net)
    fold_and_compare(net, X, folded=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model", "needs an nn.Module"),
        (DyT(8).eval(), "no Linear to fold into"),
        (nn.Linear(8, 8).eval(), "dyt.convert"),
        (sequential(), r"Call model.eval\(\) first"),
        (
            nn.Sequential(sequential().eval(), nn.Dropout()).eval().append(nn.Dropout()),
            "for example '2'",
        ),
    ],
)
def test_fold_errors_are_explained(model, message):
    with pytest.raises(ValueError, match=message):
        fold(model)
