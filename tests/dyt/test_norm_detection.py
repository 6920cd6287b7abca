"""Tests of norm detection: layers of every library, and similar layers that must be left alone.

Classes of libraries that cannot be installed everywhere (fairseq, mamba_ssm) are re-implemented
here with the same base classes, attributes and behavior.
"""

import pytest
import timm.layers as tl
import torch
import torch.nn.functional as F
from diffusers.models import normalization as diffusers_norms
from timm.layers import norm as timm_norms
from torch import nn
from torchaudio.models.wav2vec2.components import LayerNorm as TransposedLayerNorm
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from dyt import DyT, convert, replacing
from dyt.norm_detection import NormSpec, is_norm_like, read_norm


class Fp32LayerNorm(nn.LayerNorm):
    """Same as fairseq's: computes in float32 and returns the input's dtype."""

    def forward(self, x):
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)


class MambaRMSNorm(nn.Module):
    """Same as mamba_ssm's: bias registered as None, and a kernel that rejects CPU tensors."""

    def __init__(self, hidden_size, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.register_parameter("bias", None)

    def forward(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")


MambaRMSNorm.__name__ = "RMSNorm"


class MambaRMSNormWithZ(nn.Module):
    """Same as mamba_ssm's gated norm: z is the gate, and optional."""

    def __init__(self, hidden_size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x, z=None):
        x = x if z is None else x * F.silu(z)
        return F.rms_norm(x, self.weight.shape, self.weight)


class FusedInTrainingRMSNorm(GemmaRMSNorm):
    """A norm with a kernel for training that needs a GPU."""

    def forward(self, x):
        if self.training:
            raise RuntimeError("expected a CUDA tensor")
        return super().forward(x)


class GeluRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return F.gelu(super().forward(x))


# constructor, channel axis, has a weight, has a bias, offset of the weight
KNOWN = {
    "torch LN": (lambda: nn.LayerNorm(8), -1, True, True, 0),
    "torch LN no affine": (lambda: nn.LayerNorm(8, elementwise_affine=False), -1, False, False, 0),
    "torch LN no bias": (lambda: nn.LayerNorm(8, bias=False), -1, True, False, 0),
    "torch RMSNorm": (lambda: nn.RMSNorm(8), -1, True, False, 0),
    "torch RMSNorm no affine": (
        lambda: nn.RMSNorm(8, elementwise_affine=False),
        *(-1, False, False, 0),
    ),
    "timm LayerNorm": (lambda: tl.LayerNorm(8), -1, True, True, 0),
    "timm LayerNormFp32": (lambda: timm_norms.LayerNormFp32(8), -1, True, True, 0),
    "timm LayerNorm2d": (lambda: tl.LayerNorm2d(8), 1, True, True, 0),
    "timm LayerNorm2d no affine": (lambda: tl.LayerNorm2d(8, affine=False), 1, False, False, 0),
    "timm LayerNorm2dFp32": (lambda: timm_norms.LayerNorm2dFp32(8), 1, True, True, 0),
    "timm LayerNormExp2d": (lambda: timm_norms.LayerNormExp2d(8), 1, True, True, 0),
    "timm RmsNorm": (lambda: tl.RmsNorm(8), -1, True, False, 0),
    "timm RmsNorm no affine": (lambda: tl.RmsNorm(8, affine=False), -1, False, False, 0),
    "timm RmsNorm2d": (lambda: timm_norms.RmsNorm2d(8), 1, True, False, 0),
    "timm SimpleNorm": (lambda: tl.SimpleNorm(8), -1, True, False, 0),
    "timm SimpleNorm2d": (lambda: tl.SimpleNorm2d(8), 1, True, False, 0),
    "timm LayerNormAct2d without act": (
        lambda: tl.LayerNormAct2d(8, apply_act=False),
        *(1, True, True, 0),
    ),
    "HF Llama": (lambda: LlamaRMSNorm(8), -1, True, False, 0),
    "HF Gemma": (lambda: GemmaRMSNorm(8), -1, True, False, 1),
    "HF T5": (lambda: T5LayerNorm(8), -1, True, False, 0),
    "HF ConvNext last": (lambda: ConvNextLayerNorm(8), -1, True, True, 0),
    "HF ConvNext first": (
        lambda: ConvNextLayerNorm(8, data_format="channels_first"),
        *(1, True, True, 0),
    ),
    "HF Nemotron": (lambda: NemotronLayerNorm1P(8), -1, True, True, 1),
    "HF Olmo": (lambda: OlmoLayerNorm(8), -1, False, False, 0),
    "HF Cohere per head": (lambda: CohereLayerNorm((2, 4)), -1, True, False, 0),
    "HF Llama4 L2": (lambda: Llama4TextL2Norm(), -1, False, False, 0),
    "diffusers RMSNorm": (lambda: diffusers_norms.RMSNorm(8, 1e-6), -1, True, False, 0),
    "diffusers RMSNorm bias": (
        lambda: diffusers_norms.RMSNorm(8, 1e-6, bias=True),
        *(-1, True, True, 0),
    ),
    "diffusers RMSNorm no affine": (
        lambda: diffusers_norms.RMSNorm(8, 1e-6, elementwise_affine=False),
        *(-1, False, False, 0),
    ),
    "diffusers FP32LayerNorm": (lambda: diffusers_norms.FP32LayerNorm(8), -1, True, True, 0),
    "torchaudio LN": (lambda: TransposedLayerNorm(8), 1, True, True, 0),
    "fairseq Fp32LayerNorm": (lambda: Fp32LayerNorm(8), -1, True, True, 0),
    "fairseq Fp32LayerNorm no affine": (
        lambda: Fp32LayerNorm(8, elementwise_affine=False),
        *(-1, False, False, 0),
    ),
    "mamba_ssm RMSNorm": (lambda: MambaRMSNorm(8), -1, True, False, 0),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", KNOWN)
def test_convert_detects_norm_axis_affine_and_offset(name, device):
    make, channel_axis, weight, bias, offset = KNOWN[name]
    old = make()
    if weight:
        nn.init.constant_(old.weight, 3.0)
    net = nn.ModuleDict({"linear": nn.Linear(8, 8), "norm": old}).to(device)
    report = convert(net, copy_affine=True)

    assert report.paths == ("norm",)
    assert report[0].old == type(old).__name__
    new = net["norm"]
    assert type(new) is DyT
    assert new.channel_axis == channel_axis
    assert (new.weight is not None, new.bias is not None) == (weight, bias)
    assert {p.device.type for p in new.parameters()} == {device}
    if weight and device == "cpu":
        assert set(new.weight.flatten().tolist()) == {3.0 + offset}


@pytest.mark.parametrize("name", KNOWN)
def test_replacing_equals_convert_for_every_norm(name, assert_same_network):
    def make():
        return nn.ModuleDict({"linear": nn.Linear(8, 8), "norm": KNOWN[name][0]()})

    torch.manual_seed(0)
    with replacing():
        network = make()
    torch.manual_seed(0)
    expected = make()
    convert(expected)
    assert isinstance(network["norm"], DyT)
    assert_same_network(network, expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(8),
        nn.BatchNorm2d(8),
        nn.SyncBatchNorm(8),
        nn.GroupNorm(1, 8),
        nn.GroupNorm(2, 8),
        tl.GroupNorm1(8),
        tl.BatchNormAct2d(8),
        tl.FrozenBatchNormAct2d(8),
        nn.InstanceNorm1d(8, affine=True),
        nn.LazyInstanceNorm1d(affine=True, track_running_stats=False),
        nn.LocalResponseNorm(2),
        diffusers_norms.GlobalResponseNorm(8),
        diffusers_norms.LpNorm(),
        MambaRMSNormGated(8, group_size=8),
        MambaRMSNormWithZ(8),
        nn.Embedding(8, 8),
    ],
    ids=lambda module: type(module).__name__,
)
def test_convert_keeps_other_norms_and_layers(module):
    net = nn.ModuleDict({"other": module, "norm": nn.LayerNorm(8)})
    before = {id(p) for p in module.parameters()}
    report = convert(net)
    assert report.paths == ("norm",)
    assert net["other"] is module
    assert {id(p) for p in module.parameters()} == before
    if not isinstance(module, nn.Embedding):
        assert [(kept.path, kept.layer) for kept in report.left] == [
            ("other", type(module).__name__)
        ]
        assert f"left alone: 1 × {type(module).__name__}" in str(report)


def test_convert_keeps_weight_and_spectral_normalization():
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.LayerNorm(8),
    )
    report = convert(net)
    assert report.paths == ("2",)
    assert report.left == ()
    net(torch.randn(2, 8)).sum().backward()


@pytest.mark.parametrize(
    "module",
    [
        GeluRMSNorm(8),
    ],
    ids=lambda module: type(module).__name__,
)
def test_convert_rejects_norms_with_activation(module):
    net = nn.ModuleDict({"act": module, "norm": nn.LayerNorm(8)})
    kind = type(module).__name__
    with pytest.raises(ValueError, match=rf"'act' \({kind}\) cannot be replaced.*skip=\('act',\)"):
        convert(net)
    assert type(net["norm"]) is nn.LayerNorm
    report = convert(net, skip="act")
    assert [(kept.path, kept.layer) for kept in report.kept] == [("act", kind)]


@pytest.mark.parametrize(
    ("make", "kind", "sizes"),
    [
        (lambda: tl.LayerNorm2d(1), "LayerNorm2d", (2, 1, 3, 3)),
        (lambda: TransposedLayerNorm(3), "LayerNorm", (2, 3, 5)),
        (lambda: tl.RmsNorm(2), "RmsNorm", (2, 2)),
        (lambda: CohereLayerNorm((3, 5)), "CohereLayerNorm", (2, 3, 5)),
    ],
)
def test_detection_of_narrow_norms(make, kind, sizes):
    net = nn.Sequential(make())
    assert [r.old for r in convert(net)] == [kind]
    assert net(torch.randn(sizes)).shape == sizes


def test_detection_runs_a_layer_as_in_evaluation():
    net = nn.ModuleDict({"norm": FusedInTrainingRMSNorm(8)}).train()
    nn.init.constant_(net["norm"].weight, 3.0)
    assert convert(net, copy_affine=True).paths == ("norm",)
    assert set(net["norm"].weight.tolist()) == {4.0}, "the weight of Gemma's norms is γ - 1"
    assert net["norm"].training


def test_detection_has_no_side_effects():
    class RandomRMSNorm(GemmaRMSNorm):
        def forward(self, x):
            return super().forward(x) + 0 * torch.rand(1)

    calls = []
    net = nn.Sequential(RandomRMSNorm(8), nn.Dropout())
    net[0].register_forward_hook(lambda *_: calls.append("hook"))
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        convert(net, copy_affine=True)
    assert set(net[0].weight.tolist()) == {1.0}
    assert torch.equal(torch.get_rng_state(), before)
    assert calls == []
    assert net[0].alpha.device.type == "cpu"


class NeedsGpu(nn.Module):
    """A layer that cannot be tried here, like a CUDA kernel; its name and structure decide."""

    def __init__(self, shape=(8,), **attributes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        raise RuntimeError("expected a CUDA tensor")


@pytest.mark.parametrize(
    ("name", "shape", "attributes", "axis", "kind"),
    [
        ("FusedRMSNorm", (8,), {"eps": 1e-6}, -1, None),
        ("Fused_Layer_Norm", (8,), {"variance_epsilon": 1e-6}, -1, "layernorm"),
        ("RMSNorm2d", (8,), {"eps": 1e-6}, 1, None),
        ("LayerNorm", (8, 1, 1), {"eps": 1e-6}, 1, "layernorm"),
        ("LayerNorm", (8,), {"eps": 1e-6, "data_format": "channels_first"}, 1, "layernorm"),
        ("LayerNorm", (8,), {"eps": 1e-6, "data_format": "channels_last"}, -1, "layernorm"),
        ("FusedRMSNorm", (8,), {}, None, None),  # without an epsilon
        ("FusedScale", (8,), {"eps": 1e-6}, None, None),
    ],
)
def test_norms_that_cannot_run_are_detected_by_name(name, shape, attributes, axis, kind):
    layer = type(name, (NeedsGpu,), {})(shape, **attributes)
    spec = read_norm(layer)
    assert (spec and (spec.channel_axis, spec.kind)) == (axis and (axis, kind))
    assert spec is None or spec.shape == (8,)


@pytest.mark.parametrize("epsilon", ["eps", "epsilon", "variance_epsilon", "norm_eps"])
@pytest.mark.parametrize("weight", ["weight", "gamma", "scale", "g"])
@pytest.mark.parametrize("bias", ["bias", "beta", "b"])
def test_parameters_of_norms_that_cannot_run_are_told_by_name(weight, bias, epsilon):
    """β may come first."""
    layer = type("Fused_Layer_Norm", (NeedsGpu,), {})(**{epsilon: 1e-6})
    del layer.weight
    parameters = {name: nn.Parameter(torch.ones(8)) for name in (bias, weight)}
    for name, parameter in parameters.items():
        layer.register_parameter(name, parameter)
    expected = NormSpec(
        shape=(8,),
        channel_axis=-1,
        weight=parameters[weight],
        bias=parameters[bias],
        kind="layernorm",
    )
    # Of dicts, unlike dataclasses in Python 3.14, tensors are equal if they are the same.
    assert vars(read_norm(layer)) == vars(expected)


class Opaque(nn.Module):
    """A norm without parameters and width."""

    def forward(self, x):
        return x / x.norm()


@pytest.mark.parametrize(
    ("module", "also", "reason"),
    [
        (
            GeluRMSNorm(8),
            (),
            "it is a LayerNorm or RMSNorm by class, but computes something else",
        ),
        (tl.BatchNormAct2d(8), nn.BatchNorm2d, "it contains other modules, which would be lost"),
        (MambaRMSNormWithZ(8), MambaRMSNormWithZ, "its forward takes more than one input"),
        (
            Opaque(),
            Opaque,
            "its width is unknown: describe it with also={Opaque: dyt.NormLayout(...)}",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_convert_explains_in_full_why_a_layer_cannot_be_replaced(module, also, reason):
    with pytest.raises(ValueError) as error:
        convert(nn.Sequential(nn.LayerNorm(8), module), also=also)
    assert str(error.value) == (
        f"'1' ({type(module).__name__}) cannot be replaced: {reason}. Leave it alone with"
        " skip=('1',), or build the network without it."
    )


@pytest.mark.parametrize(
    ("attribute", "value", "shape"),
    [
        ("normalized_shape", 8, (8,)),
        ("normalized_shape", (2, 4), (2, 4)),
        ("normalized_shape", (), None),
        ("hidden_size", 8, (8,)),
        ("hidden_size", [2, 4], (2, 4)),
        ("hidden_size", True, None),
        ("dim", (8,), (8,)),
        ("dim", 8, None),  # it may be an axis
    ],
)
def test_norm_without_parameters_has_the_width_of_an_attribute(attribute, value, shape):
    layer = type("RMSNorm", (NeedsGpu,), {})(eps=1e-6, **{attribute: value})
    layer.weight = None
    spec = read_norm(layer)
    assert (spec and spec.shape) == shape


@pytest.mark.parametrize(
    "module", [nn.CrossMapLRN2d(2), nn.LocalResponseNorm(2), nn.GroupNorm(2, 4)], ids=repr
)
def test_norms_over_groups_are_norm_like_and_never_probed(module):
    assert is_norm_like(module) and read_norm(module) is None


class Normalizer(nn.Module):
    """A network whose name has "norm" in it, around a layer with parameters."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def test_norm_like_modules_have_no_children_with_parameters():
    assert not is_norm_like(Normalizer(nn.Linear(2, 2)))
    assert is_norm_like(Normalizer(nn.Identity()))
    assert not is_norm_like(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).parametrizations)
