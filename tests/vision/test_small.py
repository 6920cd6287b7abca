"""The small ResNet and VGG of Table 15: their layers and initial weights."""

import math
from itertools import chain

import pytest
import torch
from torch import nn

from dyt_vision.small import resnet, vgg


def channels(model):
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_resnet_has_one_bottleneck_in_each_of_four_stages():
    model = resnet(7, width=4)
    # timm's stem has 64 channels. Each stage: 1 × 1, 3 × 3, 1 × 1, and the shortcut of its width.
    stages = [[c, c, 4 * c, 4 * c] for c in (4, 8, 16, 32)]
    assert channels(model) == [64, *chain.from_iterable(stages)]
    assert len([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]) == 17
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert channels(resnet(2))[1] == 8


def test_vgg_halves_16_pixels_three_times():
    torch.manual_seed(0)
    model = vgg(7, width=4)
    assert channels(model) == [4, 8, 16, 16] and channels(vgg(2))[0] == 16
    assert [type(layer).__name__ for layer in model.features] == [
        *("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d") * 2,
        *("Conv2d", "BatchNorm2d", "ReLU") * 2,
        "MaxPool2d",
    ]
    shapes = [tuple(layer.weight.shape) for layer in model.classifier if hasattr(layer, "weight")]
    assert shapes == [(128, 64), (7, 128)]
    assert model.classifier[2].p == 0.5
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    # He et al. 2015, by the outputs: 8 or 16 channels of 3 × 3, from 4 or 8.
    for layer, outputs in ((4, 8), (8, 16)):
        std = model.features[layer].weight.std().item()
        assert std == pytest.approx(math.sqrt(2 / (9 * outputs)), rel=0.15)
    assert not any(m.bias.any() for m in model.features if isinstance(m, nn.Conv2d))
