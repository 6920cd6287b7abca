"""fold puts γ and β into the Linears behind, where it is safe, and tells where it is not."""

import copy
import re
from collections import OrderedDict

import pytest
import timm
import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dyt import Derf, DyT, DyTLinear, Norm, convert, fold

X = torch.linspace(-2, 2, 3 * 4 * 8).view(3, 4, 8)


def drawn(net: nn.Module) -> nn.Module:
    """The network with random γ, β, α and s, ready for inference."""
    for module in net.modules():
        if isinstance(module, (DyT, Derf)):
            for p in module.parameters():
                nn.init.normal_(p, 0.7, 0.3)
    return net.eval()


def same_output(net, *args, folded: int, tolerance=1e-5, example=True, **kwargs):
    """Fold the network, with an example and without it, and compare; the report."""
    with torch.no_grad():
        before = net(*args, **kwargs)
        report = fold(net, *args, **kwargs) if example else fold(net)
        after = net(*args, **kwargs)
    assert len(report.folded) == folded
    before, after = (y if isinstance(y, torch.Tensor) else y.logits for y in (before, after))
    assert after.dtype == before.dtype
    torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)
    return report


EXAMPLE = pytest.mark.parametrize("example", [True, False], ids=["example", "traced"])


def sequential(norm=None, **options) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(fc=nn.Linear(8, 8), norm=norm or DyT(8), head=nn.Linear(8, 5, **options))
    )


@EXAMPLE
@pytest.mark.parametrize(
    "norm",
    [DyT(8), Derf(8), DyT(8, bias=False), *(DyT(8, squash=s) for s in ("hardtanh", "sigmoid"))],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_behind_a_layer(norm, bias, example):
    net = drawn(sequential(copy.deepcopy(norm), bias=bias))
    head = net.head.weight
    report = same_output(net, X, folded=1, example=example)
    assert (net.norm.weight, net.norm.bias) == (None, None)
    assert "affine=False" in repr(net.norm)
    assert net.head.weight is head
    assert (net.head.bias is None) == (not bias and norm.bias is None)
    assert report[0].path == "norm"
    assert report[0].into == ("head",)
    assert report[0].new_bias == (("head",) if not bias and norm.bias is not None else ())


@EXAMPLE
def test_second_call_finds_nothing_left(example):
    net = drawn(sequential())
    arguments = (X,) if example else ()
    fold(net, *arguments)
    after = copy.deepcopy(net.state_dict())
    assert len(fold(net, *arguments)) == 0
    assert all(torch.equal(value, after[key]) for key, value in net.state_dict().items())


def test_state_dict_of_a_folded_network():
    net = drawn(sequential(bias=False))
    fold(net)
    assert list(net.state_dict()) == [
        "fc.weight",
        "fc.bias",
        "norm.alpha",
        "head.weight",
        "head.bias",
    ]
    other = drawn(sequential(bias=False))
    fold(other)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(X), net(X))


def test_dtype_and_requires_grad_stay():
    net = drawn(sequential(bias=False)).to(torch.bfloat16)
    net.head.requires_grad_(False)
    same_output(net, X.bfloat16(), folded=1, tolerance=2**-5)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert not net.head.bias.requires_grad
    assert net.norm.alpha.requires_grad


def test_weights_are_rounded_once():
    net = drawn(sequential())
    exact = copy.deepcopy(net).double()
    expected = (
        exact.head.weight * exact.norm.weight,
        exact.head.bias + (exact.head.weight @ exact.norm.bias),
    )
    fold(net)
    assert torch.equal(net.head.weight, expected[0].float())
    assert torch.equal(net.head.bias, expected[1].float())


class Attention(nn.Module):
    """q, k and v read one layer; the value of `also` says what else does."""

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
def test_several_linears_behind_one_layer(example):
    net = drawn(Attention())
    report = same_output(net, X, folded=1, example=example)
    assert report[0].into == report[0].new_bias == ("q", "k", "v")


# What else a network does with the layer's output y, or with its Linears, and a word of the reason.
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
def test_a_layer_that_something_else_reads_is_left(other, example):
    also, reason = OTHERS[other]
    net = drawn(Attention(also))
    before = copy.deepcopy(net.state_dict())
    report = fold(net, X) if example else fold(net)
    assert len(report.left) == 1
    assert_reason(report, reason)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def assert_reason(report, reason):
    assert re.search(reason, report.left[0].reason), report.left[0].reason


@EXAMPLE
def test_a_layer_and_linears_called_twice_alike(example):
    net = drawn(Attention(lambda net, x, y, out: net.k(net.norm(out))))
    same_output(net, X, folded=1, example=example)


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
def test_a_linear_that_is_more_than_one_is_left(change, reason, example):
    net = drawn(sequential())
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
        (DyT(8, channel_axis=1), torch.randn(2, 8, 4), nn.Conv1d(8, 4, 1)),
        (DyT(8, channel_axis=1), torch.randn(2, 8, 8), nn.Linear(8, 5)),
        (DyT((4, 8)), X, nn.Linear(8, 5)),
        (DyT(8), X, nn.GELU()),
        (DyT(8), X, nn.Bilinear(8, 8, 2)),
    ],
)
def test_other_layouts_and_readers_are_left(norm, x, reader, example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.reader = norm, reader

        def forward(self, x):
            y = self.norm(x)
            return self.reader(y, y) if isinstance(self.reader, nn.Bilinear) else self.reader(y)

    same_output(drawn(Net()), x, folded=0, example=example)


@EXAMPLE
def test_dropout_in_between_is_passed(example):
    net = nn.Sequential(DyT(8), nn.Dropout(0.5), nn.Identity(), nn.Linear(8, 5))
    same_output(drawn(net), X, folded=1, example=example)


@EXAMPLE
def test_a_subclass_with_a_forward_of_its_own_is_left(example):
    class Twice(DyT):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Twice(8), nn.Linear(8, 5))
    report = same_output(drawn(net), X, folded=0, example=example)
    assert "more than its class" in report[0].reason


@EXAMPLE
def test_two_layers_that_share_gamma(example):
    net = nn.Sequential(DyT(8), nn.Linear(8, 8), DyT(8), nn.Linear(8, 5))
    net[2].weight = net[0].weight
    same_output(drawn(net), X, folded=2, example=example)


@EXAMPLE
def test_inputs_by_name_and_defaults(example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = DyT(8), nn.Linear(8, 5)

        def forward(self, x, *, scale=None):
            y = self.norm(x)
            return self.fc(input=y if scale is None else y * scale)

    same_output(drawn(Net()), x=X, folded=1, example=example)


@EXAMPLE
def test_multihead_attention_is_no_linear(example):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attn = DyT(8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.norm(x)
            return self.attn(y, y, y)[0]

    report = same_output(drawn(Net()), X, folded=0, example=example)
    assert "attn" in report[0].reason


@EXAMPLE
def test_hooks_and_attributes_stay_as_they_were(example):
    def remember(net, x, y, out):
        net.last = out
        return out

    net = drawn(Attention(remember))
    net.last = None
    fold(net, X) if example else fold(net)
    assert net.last is None or isinstance(net.last, torch.Tensor)  # no symbol of the trace
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_hooks_are_removed_when_the_example_does_not_fit():
    net = drawn(sequential())
    with pytest.raises(RuntimeError):
        fold(net, torch.randn(3, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@EXAMPLE
def test_dyt_linear(example):
    net = drawn(DyTLinear(DyT(8), nn.Linear(8, 5)))
    same_output(net, X, folded=1, example=example)
    net = drawn(nn.Sequential(nn.Linear(8, 8), DyTLinear(Derf(8), nn.Linear(8, 5))))
    same_output(net, X, folded=1, example=example)


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2
    )


@EXAMPLE
@pytest.mark.parametrize("norm", [Norm.dyt(), Norm.derf()], ids=str)
def test_vit(norm, example):
    net = vit()
    convert(net, norm)
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    # The trace does not follow the class token's view from the last layer to the head.
    report = same_output(drawn(net), images, folded=7 if example else 6, example=example)
    assert report[0].into == ("blocks.0.attn.qkv",)
    assert report[1].into == ("blocks.0.mlp.fc1",)
    assert report[6].into == (("head",) if example else ())


def llama(**options):
    config = hf.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=32,
        **options,
    )
    net = hf.LlamaForCausalLM(config)
    convert(net)
    return drawn(net)


TOKENS = torch.arange(2 * 6).view(2, 6)


@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied):
    net = llama(tie_word_embeddings=tied)
    biases = [name for name, _ in net.named_parameters() if name.endswith("bias")]
    report = same_output(net, input_ids=TOKENS, folded=4 if tied else 5)
    assert report[0].into == tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
    assert report[1].into == tuple(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up"))
    assert [name for name, _ in net.named_parameters() if name.endswith("bias")] == biases == []
    if tied:
        assert_reason(report, "lm_head shares its weight")


def test_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    convert(net)
    report = same_output(drawn(net), X, folded=2)
    assert [f.into for f in report] == [
        (),
        ("layers.0.linear1",),
        (),
        ("layers.1.linear1",),
    ]


def test_autocast():
    net = drawn(sequential())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same_output(net, X, folded=1, tolerance=2**-5)


def test_report_prints_as_a_table():
    net = drawn(Attention(lambda net, x, y, out: net.last(out)))
    net.last = nn.Sequential(DyT(8), nn.GELU()).eval()
    assert str(fold(net)).splitlines() == [
        "path    layer        folded into",
        "norm    DynamicTanh  q (new bias), k (new bias), v (new bias)",
        "last.0  DynamicTanh  left: last.1 (GELU) reads its output",
        "1 of 2 layers with γ or β folded",
    ]


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = DyT(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.norm(x)) if x.sum() < 100 else x


def test_what_fx_cannot_follow_asks_for_an_example():
    net = drawn(Untraceable())
    with pytest.raises(ValueError, match=r"Pass an example of the inputs.*fold\(model, images\)"):
        fold(net)
    same_output(net, X, folded=1)


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
def test_what_cannot_be_folded(model, message):
    with pytest.raises(ValueError, match=message):
        fold(model)
