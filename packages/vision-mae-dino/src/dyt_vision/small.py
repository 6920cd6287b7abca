"""Small ResNet and VGG with BatchNorm, for small images on two CPU cores."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torchvision.models.vgg import make_layers


def resnet(num_classes: int) -> ResNet:
    """Return a ResNet of one bottleneck block in each of four stages, 8 to 64 inner channels.

    timm's class, because torchvision's fixes the widths; initialized like torchvision's.
    """
    return ResNet(
        Bottleneck,  # type: ignore[arg-type]  # timm annotates the class as an instance
        (1, 1, 1, 1),
        num_classes,
        stem_width=16,
        channels=(8, 16, 32, 64),
        zero_init_last=False,
    )


def vgg(num_classes: int) -> nn.Sequential:
    """Return four convolutions with BatchNorm, of 16 to 64 channels, and two linear layers.

    Images must be 16 × 16 pixels.
    """
    classifier = nn.Sequential(
        nn.Linear(64 * 2 * 2, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, num_classes)
    )
    features = make_layers([16, "M", 32, "M", 64, 64, "M"], batch_norm=True)
    for module in features:
        if isinstance(module, nn.Conv2d):  # initialized as in torchvision
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )
