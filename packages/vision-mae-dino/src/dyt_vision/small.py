"""Small ResNet and VGG with BatchNorm, for small images on two CPU cores."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torchvision.models.vgg import make_layers


def resnet(num_classes: int, *, width: int = 8) -> ResNet:
    """Return a ResNet of one bottleneck block in each of four stages.

    timm's class, because torchvision's fixes the widths; initialized like torchvision's.

    Args:
        width: inner channels of the first stage. They double with each stage, and a block has four
            times as many outside.
    """
    return ResNet(
        Bottleneck,  # type: ignore[arg-type]  # timm annotates the class as an instance
        (1, 1, 1, 1),
        num_classes,
        channels=(width, 2 * width, 4 * width, 8 * width),
        zero_init_last=False,
    )


def vgg(num_classes: int, *, width: int = 16) -> nn.Sequential:
    """Return four convolutions with BatchNorm and two linear layers, for 16 × 16 pixels.

    Args:
        width: channels of the first convolution; the last two have four times as many.
    """
    last = 4 * width
    classifier = nn.Sequential(
        nn.Linear(last * 2 * 2, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, num_classes)
    )
    features = make_layers([width, "M", 2 * width, "M", last, last, "M"], batch_norm=True)
    for module in features:
        if isinstance(module, nn.Conv2d):  # initialized as in torchvision
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )
