"""Tests of folding into convolutions, and of int8 quantization of converted networks."""

import copy
import warnings

import pytest
import torch
from timm.models.convnext import ConvNeXt
from torch import nn
from torch.ao.quantization import quantize_dynamic

from dyt import Calibration, DyT, Norm, convert, fold

EXAMPLE = pytest.mark.parametrize("example", [False, True], ids=["trace", "example"])


def randomized(model):
    for p in model.parameters():
        nn.init.normal_(p, 0.1, 0.5)
    return model.eval()


@EXAMPLE
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(8, 4, 1),
        lambda: nn.Conv2d(8, 4, 2, stride=2, bias=False),
        lambda: nn.Conv2d(8, 4, 3, padding="valid"),
    ],
)
def test_fold_into_unpadded_convolutions(conv, example):
    model = randomized(nn.Sequential(DyT(8, channel_axis=1), conv()))
    x = torch.randn(2, 8, 4, 4)
    expected = model(x).detach()
    report = fold(model, x) if example else fold(model)
    assert report[0].into == ("1",)
    assert model[0].weight is None
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_fold_into_convolutions_of_any_dimension(conv):
    model = randomized(nn.Sequential(DyT(8, channel_axis=1), conv(8, 4, 2)))
    x = torch.randn(2, 8, *[3] * (model[1].weight.ndim - 2))
    expected = model(x).detach()
    assert fold(model)[0].into == ("1",)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@EXAMPLE
@pytest.mark.parametrize(
    ("layer", "reader", "reason"),
    [
        (DyT(8, channel_axis=1), nn.Conv2d(8, 4, 3, padding=1), "reads its output"),
        (DyT(8, channel_axis=1), nn.Conv2d(8, 8, 1, groups=8), "reads its output"),
        (DyT(8), nn.Conv2d(8, 4, 1), "axis"),
    ],
)
def test_fold_leaves_padded_grouped_and_other_axes(layer, reader, reason, example):
    model = randomized(nn.Sequential(layer, reader))
    x = torch.randn(2, 8, 8, 8)
    report = fold(model, x) if example else fold(model)
    assert reason in report[0].reason
    assert model[0].weight is not None


def test_fold_convnext_with_convolutions_as_mlp():
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), conv_mlp=True, num_classes=3)
    convert(model)
    randomized(model)
    x = torch.randn(1, 3, 32, 32)
    expected = model(x).detach()
    # The outputs of the stem's and the head's layers have other readers.
    assert len(fold(model).folded) == 7
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


def int8_error(model, x):
    """Return the relative error of the dynamically quantized network."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        quantized = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        return ((quantized(x) - model(x)).norm() / model(x).norm()).item()


def test_int8_error_of_tiny_activations_vanishes_with_calibration():
    """torch's int8 kernels have a smallest scale of 6e-5; a small α leaves small inputs small."""
    torch.manual_seed(0)
    x = 1e-3 * torch.randn(64, 32)
    models = [
        nn.Sequential(nn.Identity(), nn.LayerNorm(32), nn.Linear(32, 32, False)) for _ in range(2)
    ]
    convert(models[0], Norm.dyt(0.5))
    convert(models[1], calibrate=Calibration(x, gamma="one"))
    assert int8_error(models[0].eval(), x) > 0.02
    assert int8_error(models[1].eval(), x) < 0.015


def test_int8_error_shrinks_after_folding_uneven_gamma():
    torch.manual_seed(0)
    model, x = nn.Sequential(DyT(64, 1.0), nn.Linear(64, 64)).eval(), torch.randn(256, 64)
    with torch.no_grad():
        model[0].weight.copy_(torch.exp(2 * torch.randn(64)))
    before = int8_error(model, x)
    fold(model)
    assert int8_error(model, x) < 0.75 * before
