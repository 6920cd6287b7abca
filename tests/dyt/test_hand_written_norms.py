"""Tests of converting norms as public networks write them, and norms fused with activations."""

import pytest
import torch
from timm.layers import LayerNormAct, LayerNormAct2d, RmsNormAct2d
from torch import nn
from torch.nn import functional as F

from dyt import Derf, DyT, Norm, NormLayout, convert, load_pretrained, save_pretrained
from dyt.norm_layout import _width


class LayerNorm(nn.Module):
    """LN of "The Annotated Transformer"."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class BiasFirstNorm(LayerNorm):
    """The same with β as the first parameter."""

    def __init__(self, features):
        super().__init__(features)
        self.a_2, self.b_2 = self.b_2, self.a_2

    def forward(self, x):
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.b_2 * (x - mean) / (std + self.eps) + self.a_2


class ChanLayerNorm(nn.Module):
    """LN over axis 1 of NCHW, with g of shape (1, C, 1, 1), as in diffusion networks."""

    def __init__(self, dim):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x):
        var = x.var(1, unbiased=False, keepdim=True)
        return (x - x.mean(1, keepdim=True)) * (var + 1e-5).rsqrt() * self.g + self.b


class BufferLayerNorm(nn.Module):
    """LN whose β is a buffer of zeros, as in PaLM's public implementations."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class TrackingNorm(nn.Module):
    """Computes a LN in evaluation, and follows its input in training."""

    def __init__(self, dim, name, value):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_buffer(name, value)

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight)


class ScaledNorm(nn.Module):
    """Not a LN: γ² is applied."""

    def __init__(self, dim):
        super().__init__()
        self.a = nn.Parameter(torch.ones(dim))
        self.b = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:]) * self.a * self.a + self.b


class TemperedNorm(nn.Module):
    """Not a LN: γ is 2 % larger than its parameter."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return 1.02 * F.layer_norm(x, x.shape[-1:], self.weight)


@pytest.mark.parametrize("kind", [LayerNorm, BiasFirstNorm, BufferLayerNorm])
def test_convert_recognizes_hand_written_norms(kind):
    model = nn.Sequential(nn.Linear(8, 8), kind(8))
    x = torch.randn(64, 8)
    with torch.no_grad():
        for p in model[1].parameters():
            p.uniform_(0.5, 1.5)
    gamma_name = "gamma" if kind is BufferLayerNorm else "b_2" if kind is BiasFirstNorm else "a_2"
    gamma = getattr(model[1], gamma_name)
    values, expected = gamma.tolist(), model(x).detach()
    report = convert(model, copy_affine=True, calibrate=x)
    assert model[1].weight is gamma
    assert (model[1].bias is None) == (kind is BufferLayerNorm)
    assert report[0].fit.error < 0.5
    assert (model(x) - expected).norm() < 0.5 * expected.norm()
    assert values != [1.0] * 8


def test_convert_channel_norm_with_broadcastable_gamma():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChanLayerNorm(8))
    gamma, x = model[1].g, torch.randn(2, 3, 4, 4)
    report = convert(model)
    assert report[0].channel_axis == 1
    assert report[0].shape == (8,)
    assert model[1].weight is gamma
    assert gamma.shape == (8,)
    model(x).sum().backward()
    assert gamma.grad.shape == (8,)


class OpaqueNorm(ChanLayerNorm):
    def forward(self, x):
        return super().forward(x) ** 2


def test_convert_listed_class_with_broadcastable_gamma_runs():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), OpaqueNorm(8))
    convert(model, also=OpaqueNorm)
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 8, 4, 4)


class OpaqueLayerNorm(nn.Module):
    """A norm that no probe recognizes: tanh after a LN over axis 1."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.a_2 = nn.Parameter(torch.ones(1, features, 1, 1))
        self.b_2 = nn.Parameter(torch.zeros(1, features, 1, 1))

    def forward(self, x):
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return self.a_2 * torch.tanh((x - mean) / (std + 1e-6)) + self.b_2


LAYOUT = NormLayout(weight="a_2", bias="b_2", channel_axis=1, width="features")


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), OpaqueLayerNorm(8))


@pytest.mark.parametrize("copy_affine", [True, False])
def test_convert_also_with_layout(copy_affine):
    model, x = conv_net(), torch.randn(4, 3, 4, 4)
    gamma = model[1].a_2
    reference = model(x).detach()
    report = convert(model, also={OpaqueLayerNorm: LAYOUT}, copy_affine=copy_affine, calibrate=x)
    assert report[0].shape == (8,)
    assert model[1].weight is gamma
    assert model[1].channel_axis == 1
    assert (model(x) - reference).norm() < 0.5 * reference.norm()


@pytest.mark.parametrize("kind", [LayerNorm, ChanLayerNorm, BufferLayerNorm])
def test_convert_also_with_layout_equals_detection(kind):
    layout = {
        LayerNorm: NormLayout(weight="a_2", bias="b_2"),
        ChanLayerNorm: NormLayout(weight="g", bias="b", channel_axis=1, width=8),
        BufferLayerNorm: NormLayout(weight="gamma"),
    }[kind]
    models = [nn.Sequential(kind(8)) for _ in range(2)]
    found, told = convert(models[0]), convert(models[1], also={kind: layout})
    assert found.replacements == told.replacements
    x = torch.randn(2, 8, 4, 8)
    assert torch.equal(models[0](x), models[1](x))


def test_layout_without_parameters_makes_dyt_of_any_width():
    class Plain(nn.Module):
        def forward(self, x):
            return x / x.norm()

    model = nn.Sequential(Plain())
    report = convert(model, also={Plain: NormLayout()})
    assert report[0].shape is None
    assert model(torch.randn(2, 5)).shape == (2, 5)


def test_load_pretrained_restores_layouts(tmp_path):
    model, x = conv_net(), torch.randn(2, 3, 4, 4)
    report = convert(model, also={OpaqueLayerNorm: LAYOUT}, calibrate=x)
    save_pretrained(model, report, tmp_path)
    restored = conv_net()
    assert load_pretrained(restored, tmp_path).also == {"OpaqueLayerNorm": LAYOUT}
    assert torch.equal(restored(x), model(x))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (NormLayout(weight="a_2"), "does not name b_2, which would be lost"),
        (NormLayout(weight="gamma", bias="b_2"), "names 'gamma', which is no parameter"),
        (NormLayout(weight="a_2", bias="b_2", width="dim"), "attribute 'dim'"),
        (NormLayout(weight="a_2", bias="b_2", width=7), r"width \(7,\), but 'a_2' has shape"),
        (NormLayout(weight="a_2", bias="b_2", width=-8), "not a number of channels"),
        (NormLayout(weight="a_2", bias="b_2", width=True), "the width True: not a number of"),
        (
            NormLayout(weight="a_2", bias="b_2", width=(2, 4), channel_axis=1),
            r"^'1' \(OpaqueLayerNorm\) cannot be replaced: channel_axis = 1 takes one width",
        ),
        ("a_2", r"not a dyt\.NormLayout"),
    ],
)
def test_convert_refuses_wrong_layouts(layout, message):
    model = conv_net()
    with pytest.raises(ValueError, match=message):
        convert(model, also={OpaqueLayerNorm: layout})
    assert isinstance(model[1], OpaqueLayerNorm)


@pytest.mark.parametrize(
    ("sizes", "width", "shape"),
    [
        ((8,), None, (8,)),
        ((1, 8, 1, 1), None, (8,)),
        ((2, 4), None, (2, 4)),
        ((2, 1, 4), None, (2, 1, 4)),
        ((1,), 1, (1,)),
        ((2, 4), [2, 4], (2, 4)),
        ((8,), "dim", (8,)),
    ],
)
def test_layout_has_the_width_of_gamma_or_as_given(sizes, width, shape):
    """γ may have further axes of size 1; a width from JSON is a list."""
    module = nn.Module()
    module.dim, module.scale = 8, nn.Parameter(torch.ones(sizes))
    layout = NormLayout(weight="scale", width=width)
    assert _width(module, layout, module.scale) == shape
    assert layout == NormLayout(weight="scale", width=tuple(width) if width == [2, 4] else width)


def test_layout_refuses_bias_alone_and_buffers():
    with pytest.raises(ValueError, match="without weight"):
        NormLayout(bias="b")
    layout = NormLayout(weight="gamma", bias="beta")
    with pytest.raises(ValueError, match="'beta', which is a buffer"):
        convert(nn.Sequential(BufferLayerNorm(8)), also={BufferLayerNorm: layout})


class ScaleNorm(nn.Module):
    """x / ‖x‖ times one learnable number (Nguyen and Salazar 2019, arXiv 1910.05895)."""

    def __init__(self, shape):
        super().__init__()
        self.g = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.g * x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_convert_leaves_norms_with_a_scalar_gamma(shape):
    model = nn.Sequential(ScaleNorm(shape), nn.LayerNorm(8))
    for also in (ScaleNorm, {ScaleNorm: NormLayout(weight="g")}):
        with pytest.raises(ValueError, match="its γ is one number, but that of DyT has one for"):
            convert(model, also=also)
    report = convert(model)
    assert report.paths == ("1",)
    assert [kept.layer for kept in report.left] == ["ScaleNorm"]


def test_convert_leaves_other_formulas_and_other_buffers():
    shifted = BufferLayerNorm(8)
    shifted.beta.fill_(0.5)
    model = nn.Sequential(ScaledNorm(8), shifted, nn.LayerNorm(8), TemperedNorm(8))
    report = convert(model)
    assert report.paths == ("2",)
    assert [kept.layer for kept in report.left] == [
        "ScaledNorm",
        "BufferLayerNorm",
        "TemperedNorm",
    ]


@pytest.mark.parametrize(
    "buffer",
    [torch.ones(8), torch.zeros(8, dtype=torch.int64), torch.tensor(0)],
    ids=["running statistics", "counts", "number of batches"],
)
def test_convert_leaves_a_norm_with_buffers_alone(buffer):
    """Its replacement would drop the buffers, and what the layer does with them in training."""
    model = nn.Sequential(TrackingNorm(8, "tracked", buffer), nn.LayerNorm(8))
    report = convert(model)
    assert report.paths == ("1",)
    assert [kept.layer for kept in report.left] == ["TrackingNorm"]


@pytest.mark.parametrize("kind", [LayerNormAct2d, RmsNormAct2d])
@pytest.mark.parametrize("norm", [Norm.dyt(0.7), Norm.derf(0.7)], ids=str)
def test_convert_keeps_the_activation_of_a_fused_norm(kind, norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, act_layer=nn.GELU))
    names = [*model[1].state_dict(), "alpha"]
    report = convert(model, norm)
    layer, x = model[1], torch.randn(2, 8, 4, 4)
    assert isinstance(layer.act, nn.GELU)
    assert isinstance(layer, Derf) == (norm.squash == "erf")
    squash = torch.erf if norm.squash == "erf" else torch.tanh
    torch.testing.assert_close(layer(x), F.gelu(squash(0.7 * x)))
    assert report[0].channel_axis == 1
    assert set(names) <= set(layer.state_dict())


def test_calibrate_a_fused_norm_fits_the_norm_alone():
    x = torch.randn(8, 3, 4, 4)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), LayerNormAct2d(8, apply_act=False))
    fused = nn.Sequential(nn.Conv2d(3, 8, 1), LayerNormAct2d(8, act_layer=nn.GELU))
    fused.load_state_dict(plain.state_dict())
    fits = [convert(m, copy_affine=True, calibrate=x)[0].fit for m in (plain, fused)]
    assert fits[0].alpha == fits[1].alpha


def test_convert_fused_norm_refuses_batch_norm_and_keeps_layer_norm():
    model = nn.Sequential(nn.Linear(8, 8), LayerNormAct(8, act_layer=nn.ReLU))
    with pytest.raises(ValueError, match="it holds an activation"):
        convert(model, Norm.batch_norm())
    assert not convert(model, Norm.layer_norm())[0].replaced
    assert not isinstance(model[1], DyT)
