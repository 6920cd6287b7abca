"""Tests of `convert` with LN and BN as new layers (ICLR 2025 submission, Table 11)."""

import copy

import pytest
import timm
import timm.layers as tl
import torch
from timm.layers import norm as timm_norms
from torch import nn
from torchvision.models import resnet50, vgg16_bn
from torchvision.models.resnet import BasicBlock, ResNet
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from dyt import BatchNorm, ChannelsFirstLayerNorm, DyT, Norm, convert

KINDS = (Norm.own(), Norm.layer_norm(), Norm.batch_norm(), Norm.dyt(), Norm.derf())
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2
    )


def convnext():
    return timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def resnet():
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)


NETWORKS = {
    "ViT": (vit, (), 2 * 2 + 1),
    "ConvNeXt": (convnext, (), 1 + 4 + 3 + 1),
    "ResNet": (resnet, nn.BatchNorm2d, 1 + 4 * 2 + 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_arms_differ_only_in_norms_and_train(name):
    make, also, number = NETWORKS[name]
    start = make()
    reports, weights = [], []
    for norm in KINDS:
        model = copy.deepcopy(start)
        before = torch.get_rng_state()
        report = convert(model, norm, also=also)
        assert torch.equal(torch.get_rng_state(), before)
        inside = tuple(f"{path}." for path in report.paths)
        weights.append({k: v for k, v in model.state_dict().items() if not k.startswith(inside)})
        reports.append(report)
        for path in report.paths:
            assert type(model.get_submodule(path)).__name__ in {r.new for r in report}
        model(IMAGES).square().sum().backward()
        for key, p in model.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), (str(norm), key)
        assert model.eval()(IMAGES).isfinite().all()
    assert [len(report) for report in reports] == [number] * len(KINDS)
    assert {report.paths for report in reports} == {reports[0].paths}
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[k], v) for k, v in weights[0].items())


@pytest.mark.parametrize(
    ("name", "norm", "new"),
    [
        ("ViT", Norm.layer_norm(), {"LayerNorm"}),
        ("ViT", Norm.batch_norm(), {"BatchNorm"}),
        ("ConvNeXt", Norm.layer_norm(), {"LayerNorm", "LayerNorm2d"}),
        ("ConvNeXt", Norm.batch_norm(), {"BatchNorm"}),
        ("ResNet", Norm.layer_norm(), {"ChannelsFirstLayerNorm"}),
        ("ResNet", Norm.batch_norm(), {"BatchNorm2d"}),
    ],
)
def test_report_names_new_and_kept_layers(name, norm, new):
    make, also, number = NETWORKS[name]
    model = make()
    report = convert(model, norm, also=also)
    assert {r.new for r in report} == new
    unchanged = (name == "ResNet") == (norm == Norm.batch_norm())
    assert {r.replaced for r in report} == {not unchanged}
    assert {r.old == r.new for r in report} == {unchanged}
    assert {r.alpha0 for r in report} == {None}
    verb = "found, none replaced" if unchanged else "replaced"
    assert str(report).endswith(f"{norm}: {number} norm layers {verb}")


class Sites(nn.Module):
    """Norms with channels last and at axis 1, with and without γ and β."""

    def __init__(self):
        super().__init__()
        self.rms = nn.RMSNorm(8)
        self.plain = nn.RMSNorm(8, elementwise_affine=False)
        self.full = nn.LayerNorm(8)
        self.first = timm_norms.LayerNorm2d(8)
        self.first_rms = timm_norms.RmsNorm2d(8)
        self.conv = nn.Conv2d(3, 8, 1)
        self.bn = nn.BatchNorm1d(8, affine=False)


# path → class of the new layer, channel axis, has γ, has β
EXPECTED = {
    Norm.layer_norm(): {
        "rms": (nn.LayerNorm, -1, True, False),
        "plain": (nn.LayerNorm, -1, False, False),
        "full": (nn.LayerNorm, -1, True, True),
        "first": (tl.LayerNorm2d, 1, True, True),
        "first_rms": (ChannelsFirstLayerNorm, 1, True, False),
        "bn": (ChannelsFirstLayerNorm, 1, False, False),
    },
    Norm.batch_norm(): {
        "rms": (BatchNorm, -1, True, False),
        "plain": (BatchNorm, -1, False, False),
        "full": (BatchNorm, -1, True, True),
        "first": (BatchNorm, 1, True, True),
        "first_rms": (BatchNorm, 1, True, False),
        "bn": (nn.BatchNorm1d, 1, False, False),
    },
}


@pytest.mark.parametrize("norm", EXPECTED, ids=str)
def test_new_layers_keep_axis_affine_and_bias(norm):
    net = Sites()
    report = convert(net, norm, also=nn.BatchNorm1d)
    assert report.paths == tuple(EXPECTED[norm])
    for r, (kind, axis, affine, bias) in zip(report, EXPECTED[norm].values(), strict=True):
        layer = net.get_submodule(r.path)
        assert type(layer) is kind
        assert (layer.weight is not None, layer.bias is not None) == (affine, bias)
        assert (r.channel_axis, r.affine, r.bias) == (axis, affine, bias)
        if r.replaced:
            assert layer.eps == 1e-5
            assert getattr(layer, "momentum", 0.1) == 0.1
        x = 3 * torch.randn((2, 8, 5, 6) if axis == 1 else (2, 5, 8)) + 1
        y = layer(x[..., 0] if r.path == "bn" else x)
        over = {"layernorm": (axis,), "batchnorm": set(range(y.ndim)) - {axis % y.ndim}}
        mean = y.mean(tuple(over[norm.layer]))
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    others = {k for k in net.state_dict() if k.split(".")[0] not in report.paths}
    assert others == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize("norm", EXPECTED, ids=str)
def test_parameters_keep_identity_and_are_reset_or_copied(norm):
    for copy_affine, gamma, beta in ((False, 1.0, 0.0), (True, 0.25, 0.5)):
        net = nn.Sequential(nn.Linear(4, 4), tl.RmsNorm(4), nn.GroupNorm(1, 4)).double()
        net[1].weight._no_weight_decay = True
        nn.init.constant_(net[1].weight, 0.25)
        nn.init.constant_(net[2].weight, 0.25)
        nn.init.constant_(net[2].bias, 0.5)
        net[1].requires_grad_(False).eval()
        old = dict(net.named_parameters())
        convert(net, norm, also=nn.GroupNorm, copy_affine=copy_affine)
        new = dict(net.named_parameters())
        assert new.keys() == old.keys()
        assert all(p is old[name] for name, p in new.items())
        assert new["1.weight"]._no_weight_decay and not new["1.weight"].requires_grad
        assert set(new["1.weight"].tolist()) == set(new["2.weight"].tolist()) == {gamma}
        assert set(new["2.bias"].tolist()) == {beta}
        assert [m.training for m in net] == [True, False, True]
        assert {v.dtype for v in net.state_dict().values()} <= {torch.float64, torch.int64}


def test_batch_norm_running_statistics_device_and_dtype():
    with torch.device("meta"):
        net = nn.Sequential(
            nn.Linear(8, 8, dtype=torch.bfloat16),
            nn.LayerNorm(8, elementwise_affine=False),
            nn.LayerNorm(8),
        )
    convert(net, Norm.batch_norm())
    assert all(v.is_meta for v in net.state_dict().values())
    assert net[1].running_var.dtype == torch.bfloat16
    assert net[2].running_var.dtype == torch.float32


def test_copy_affine_keeps_gamma_of_gemma():
    net = nn.Sequential(GemmaRMSNorm(4))
    nn.init.constant_(net[0].weight, 0.25)
    convert(net, Norm.layer_norm(), copy_affine=True)
    assert type(net[0]) is nn.LayerNorm
    assert net[0].weight.tolist() == [1.25] * 4


def test_shared_layer_stays_shared_and_skip_keeps_others():
    net = nn.ModuleDict({"a": nn.LayerNorm(4), "b": nn.LayerNorm(4), "c": nn.LayerNorm(4)})
    net["d"] = net["a"]
    report = convert(net, Norm.batch_norm(), skip="b")
    assert report.paths == ("a", "d", "c")
    assert net["a"] is net["d"] and type(net["a"]) is BatchNorm
    assert type(net["b"]) is nn.LayerNorm
    assert [kept.path for kept in report.kept] == ["b"]


LAYER_NORMS = {
    "torch": lambda: nn.LayerNorm(8, eps=0.1),
    "torch, several axes": lambda: nn.LayerNorm((2, 8)),
    "timm": lambda: tl.LayerNorm(8),
    "timm first": lambda: tl.LayerNorm2d(8),
    "timm one channel": lambda: tl.LayerNorm2d(1),
    "timm Fp32": lambda: timm_norms.LayerNormFp32(8),
    "ours": lambda: ChannelsFirstLayerNorm(8),
    "no subclass": lambda: OlmoLayerNorm(8),
    "per head": lambda: CohereLayerNorm((2, 4)),
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norm_arm_keeps_layer_norms_unchanged(name, listed):
    net = nn.Sequential(LAYER_NORMS[name]())
    for p in net.parameters():
        nn.init.constant_(p, 0.3)
    module, state = net[0], copy.deepcopy(net.state_dict())
    module.register_forward_hook(lambda *_: None)
    report = convert(net, Norm.layer_norm(), also=type(module) if listed else ())
    assert [(r.path, r.old, r.new, r.replaced) for r in report] == [
        ("0", type(module).__name__, type(module).__name__, False)
    ]
    assert net[0] is module and len(module._forward_hooks) == 1
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    "module",
    [
        nn.RMSNorm(8),
        tl.RmsNorm(8),
        tl.SimpleNorm(8),
        T5LayerNorm(8),
        nn.RMSNorm((2, 8)),
    ],
    ids=lambda module: f"{type(module).__name__} {tuple(module.weight.shape)}",
)
def test_layer_norm_arm_replaces_rms_norms(module):
    net = nn.Sequential(module)
    shape = tuple(module.weight.shape)
    report = convert(net, Norm.layer_norm())
    assert type(net[0]) is nn.LayerNorm
    assert net[0].normalized_shape == shape
    assert report[0].replaced
    assert report[0].shape == shape


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(8, eps=0.1), nn.SyncBatchNorm(8), BatchNorm(8), BatchNorm(8, channel_axis=-1)],
    ids=lambda module: repr(module).split(", eps")[0],
)
def test_batch_norm_arm_keeps_batch_norms_unchanged(module):
    net = nn.Sequential(module)
    module.running_mean.fill_(0.25)
    report = convert(net, Norm.batch_norm(), also=type(module))
    assert net[0] is module
    assert set(module.running_mean.tolist()) == {0.25}
    assert report[0].old == report[0].new == type(module).__name__
    assert not report[0].replaced


def test_batch_norms_not_listed_in_also_are_left():
    net = nn.Sequential(nn.BatchNorm2d(8), nn.LayerNorm(4))
    for norm in KINDS:
        report = convert(copy.deepcopy(net), norm)
        assert report.paths == ("1",)
        assert [kept.layer for kept in report.left] == ["BatchNorm2d"]


@pytest.mark.parametrize(("axis", "sizes"), [(-1, (2, 5, 8)), (1, (2, 8, 5))])
def test_converted_layers_can_be_converted_again(axis, sizes):
    net = nn.Sequential(nn.LayerNorm(8) if axis == -1 else ChannelsFirstLayerNorm(8))
    x = torch.randn(sizes)
    convert(net, Norm.batch_norm())
    with pytest.raises(ValueError, match=r"1 × BatchNorm: .* pass their classes, as in also="):
        convert(net, Norm.layer_norm())
    report = convert(net, Norm.layer_norm(), also=BatchNorm)
    assert (report[0].old, report[0].channel_axis) == ("BatchNorm", axis)
    expected = torch.nn.functional.layer_norm(x.movedim(axis, -1), (8,)).movedim(-1, axis)
    torch.testing.assert_close(net(x), expected)
    assert [r.replaced for r in convert(net, Norm.layer_norm())] == [False]
    report = convert(net, Norm.dyt(0.8))
    assert (report[0].new, report[0].channel_axis) == ("DyT", axis)
    torch.testing.assert_close(net(x), torch.tanh(0.8 * x))
    with pytest.raises(ValueError, match="1 × DyT: it seems to be converted already"):
        convert(net, Norm.batch_norm())


@pytest.mark.parametrize(
    ("norm", "make", "message"),
    [
        (
            Norm.batch_norm(),
            lambda: nn.LayerNorm((2, 8)),
            r"BN cannot replace '1' \(LayerNorm\): BN needs one channel axis, but its shape is"
            r" \(2, 8\). Leave it alone with skip=\('1',\)",
        ),
        (
            Norm.batch_norm(),
            Llama4TextL2Norm,
            r"BN cannot replace '1' \(Llama4TextL2Norm\): its width is unknown",
        ),
        (Norm.layer_norm(), Llama4TextL2Norm, "LN cannot replace '1'.* width is unknown"),
    ],
)
def test_unsupported_layers_are_explained_and_nothing_changes(norm, make, message):
    net = nn.Sequential(nn.RMSNorm(8), make())
    nn.init.constant_(net[0].weight, 0.3)
    modules = list(net)
    with pytest.raises(ValueError, match=message):
        convert(net, norm)
    assert list(net) == modules
    assert net[0].weight.tolist() == pytest.approx([0.3] * 8)
    assert convert(net, norm, skip="1").paths == ("0",)


def test_report_counts_replaced_layers():
    net = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4))
    report = convert(net, Norm.layer_norm())
    assert str(report).splitlines() == [
        "path  old        new        α0  shape",
        "0     LayerNorm  LayerNorm  -   4",
        "1     RMSNorm    LayerNorm  -   4 (no bias)",
        "LN: 2 norm layers found, 1 replaced",
    ]


def test_resnet50_and_vgg16_norm_counts_of_table_11():
    for make, number in ((resnet50, 53), (vgg16_bn, 13)):
        for norm, kind in ((Norm.layer_norm(), nn.LayerNorm), (Norm.dyt(), DyT)):
            with torch.device("meta"):
                model = make()
            keys = set(model.state_dict())
            assert len(convert(model, norm, also=nn.BatchNorm2d)) == number
            assert sum(isinstance(m, kind) for m in model.modules()) == number
            assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
            gone = keys - set(model.state_dict())
            assert len(gone) == 3 * number and all(
                key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in gone
            )
