"""Tests of other tools on DyT: fx, scripting, the meta device, DDP, `norm_layer` arguments."""

import warnings
from functools import partial

import pytest
import timm
import torch
from timm.models import FeatureGraphNet
from timm.models.convnext import ConvNeXt
from torch import distributed, fx, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import vision_transformer
from torchvision.models.feature_extraction import create_feature_extractor

from dyt import ChannelsFirstLayerNorm, Derf, DyT, Norm, convert

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # torch 2.4 and 2.5
    from torch.distributed._composable.fsdp import fully_shard

SIZES = {"depths": (1, 1, 1, 1), "dims": (4, 8, 8, 8)}
NORMS = (Norm.dyt(0.7), Norm.derf(0.7, 0.1), Norm.dyt(squash="hardtanh"), Norm.dyt(alpha="absent"))


def net(affine=True):
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=affine))


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_fx_and_script_reproduce_dyt(norm, affine):
    model, x = net(affine), torch.randn(3, 8)
    convert(model, norm)
    expected = model(x)
    traced = fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)


def test_script_channels_first():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), ChannelsFirstLayerNorm(8)), torch.randn(2, 3, 4, 4)
    convert(model)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


def test_fx_graph_calls_the_kernel_in_one_node():
    model = net()
    convert(model)
    nodes = fx.symbolic_trace(model).graph.nodes
    assert [n.op for n in nodes if n.name.startswith("compute")] == ["call_function"]


def test_torchvision_feature_extractor_accepts_dyt():
    model = vision_transformer.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8
    )
    convert(model)
    names = ["encoder.layers.encoder_layer_0.ln_1"]
    features = create_feature_extractor(model.eval(), names)(torch.randn(1, 3, 8, 8))
    assert features[names[0]].shape == (1, 5, 8)
    assert not model.training


def test_timm_feature_extractor_accepts_dyt():
    model = ConvNeXt(**SIZES, num_classes=3)
    convert(model)
    first, second = FeatureGraphNet(model, out_indices=(0, 1))(torch.randn(1, 3, 32, 32))
    assert first.shape == (1, 4, 8, 8)
    assert second.shape == (1, 8, 4, 4)


def test_fx_quantization_accepts_dyt():
    model, x = net().eval(), torch.randn(64, 8)
    convert(model, Norm.dyt(2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since torch 2.10
        quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
        mapping = torch.ao.quantization.get_default_qconfig_mapping()
        prepared = quantize_fx.prepare_fx(model, mapping, (x,))
        prepared(x)
        quantized = quantize_fx.convert_fx(prepared)
    assert (quantized(x) - model(x)).norm() < 0.05 * model(x).norm()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vitamin_small_224", 1), ("mobilenetv5_300m", 56)],
)
def test_convert_replaces_norms_fused_with_activations_of_timm(name, expected):
    with torch.device("meta"):
        model = timm.create_model(name)
    report = convert(model)
    assert [r.new for r in report].count("DyTAct") == expected
    assert report.left == ()


def test_timm_initialization_of_a_meta_model():
    with torch.device("meta"):
        model = timm.models.VisionTransformer(
            img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1
        )
    convert(model, Norm.derf(0.7, 0.1))
    model.to_empty(device="cpu").init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.norm.alpha.item() == pytest.approx(0.7)
    assert model.norm.shift.item() == pytest.approx(0.1)
    assert model.norm.weight.tolist() == [1.0] * 8


@pytest.mark.parametrize("layer", [DyT, partial(Derf, shift0=0.2), partial(DyT, alpha="absent")])
def test_to_empty_from_meta_initializes(layer):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), layer(8, alpha0=0.7))
    expected = layer(8, alpha0=0.7).state_dict()
    model.to_empty(device="cpu")
    for name, value in expected.items():
        assert torch.equal(model[1].state_dict()[name], value)


def test_convert_on_meta_then_to_empty_initializes():
    with torch.device("meta"):
        model = net()
    convert(model, Norm.dyt(0.7))
    for module in model.to_empty(device="cpu").modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    assert model[1].alpha.item() == pytest.approx(0.7)
    assert model[1].weight.tolist() == [1.0] * 8
    model[1].alpha.data.fill_(3)
    assert model.to(torch.float64)[1].alpha.item() == 3


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_convert_refuses_ddp_and_fsdp(process_group):
    with pytest.raises(ValueError, match=r"inside DistributedDataParallel.*Convert the network"):
        convert(DistributedDataParallel(net()))
    wrapper = DistributedDataParallel(net())
    with pytest.raises(ValueError, match="inside DistributedDataParallel"):
        convert(wrapper.module)
    network = wrapper.module
    del wrapper
    convert(network)
    sharded = net()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="inside FSDP"):
        convert(sharded)


def test_layers_accept_arguments_of_layer_norm():
    assert DyT(8, eps=1e-6).alpha0 == 0.5
    assert Derf(8, eps=1e-6, elementwise_affine=False).weight is None
    assert DyT(8, elementwise_affine=True, affine=False).weight is not None
    with pytest.raises(ValueError, match="eps"):
        DyT(8, eps="small")


def test_dyt_is_a_norm_layer_of_convnext():
    norm_layer = partial(DyT, channel_axis=1, eps=1e-6)
    model = ConvNeXt(**SIZES, conv_mlp=True, norm_layer=norm_layer, num_classes=3)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())


def test_layers_refuse_integer_input():
    for layer in (DyT(8), Derf(8), DyT(8, squash="hardtanh")):
        with pytest.raises(ValueError, match=r"torch\.int64"):
            layer(torch.ones(2, 8, dtype=torch.long))
