"""Tests that a converted nn.TransformerEncoder avoids PyTorch's fused path, which reads its LNs."""

import copy

import pytest
import torch
from torch import nn

from dyt import BatchNorm, DyT, Norm, convert


def encoder(norm_first=False, **options):
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), **options)


def randomize(net):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return net


MASKS = {
    "none": None,
    "right": torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]], dtype=torch.bool),
    "left": torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_encoder_eval_equals_training_without_dropout(mask, norm_first):
    net = encoder(norm_first)
    report = convert(net)
    assert len(report) == 5
    randomize(net)
    x, mask = torch.randn(2, 4, 8), MASKS[mask]
    expected = net.train()(x, src_key_padding_mask=mask).detach()
    net.eval()
    torch.testing.assert_close(net(x, src_key_padding_mask=mask), expected)
    with torch.no_grad():
        torch.testing.assert_close(net(x, src_key_padding_mask=mask), expected)
    with torch.inference_mode():
        torch.testing.assert_close(copy.deepcopy(net)(x, src_key_padding_mask=mask), expected)


def test_encoder_layer_with_causal_mask():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    convert(layer)
    randomize(layer)
    x = torch.randn(2, 4, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    expected = layer.train()(x, src_mask=mask, is_causal=True).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x, src_mask=mask, is_causal=True), expected)


def test_one_converted_norm_disables_fused_path():
    net = encoder()
    convert(net, skip=("layers.*.norm1", "norm", "layers.0"))
    randomize(net)
    assert type(net.layers[1].norm1) is nn.LayerNorm
    assert type(net.layers[1].norm2) is DyT
    x, mask = torch.randn(2, 4, 8), MASKS["right"]
    expected = net.train()(x, src_key_padding_mask=mask).detach()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, src_key_padding_mask=mask), expected)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_batch_norm_is_not_run_by_fused_path(mask, norm_first):
    net = encoder(norm_first)
    assert {r.new for r in convert(net, Norm.batch_norm())} == {"BatchNorm"}
    randomize(net).eval()
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x, mask = torch.randn(2, 4, 8), MASKS[mask]
    expected = net(x, src_key_padding_mask=mask).detach()  # not fused, as gradients are required
    with torch.no_grad():
        torch.testing.assert_close(net(x, src_key_padding_mask=mask), expected)


def test_encoder_with_unchanged_norms_keeps_fused_path():
    net = nn.ModuleDict({name: encoder() for name in ("kept", "new", "own", "ln")})
    convert(net, skip=("kept", "own", "ln"))
    convert(net["own"], Norm.own())
    convert(net["ln"], Norm.layer_norm())
    for name in ("kept", "own", "ln"):
        assert net[name].use_nested_tensor
        assert all(layer.activation_relu_or_gelu for layer in net[name].layers)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_encoder_built_from_converted_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    convert(layer)
    net = randomize(nn.TransformerEncoder(layer, 2))
    x, mask = torch.randn(2, 4, 8), MASKS["right"]
    expected = net.train()(x, src_key_padding_mask=mask).detach()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, src_key_padding_mask=mask), expected)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_full_transformer():
    net = nn.Transformer(8, 2, 2, 2, 16, dropout=0.0, batch_first=True)
    assert len(convert(net)) == 2 * 2 + 1 + 3 * 2 + 1
    randomize(net)
    x, y = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    expected = net.train()(x, y)
    expected.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, y), expected.detach())
