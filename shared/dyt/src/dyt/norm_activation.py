"""DyT and Derf followed by an activation in one module, as timm's LayerNormAct2d is for LN."""

from __future__ import annotations

from torch import Tensor, nn

from dyt.layers import DynamicErf, DynamicTanh


class DynamicTanhAct(DynamicTanh):
    """act(DyT(x)). The parameters have the names of `DynamicTanh`, and `act` is the activation."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class DynamicErfAct(DynamicErf):
    """act(Derf(x)). The parameters have the names of `DynamicErf`, and `act` is the activation."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def add_activation(layer: DynamicTanh | DynamicErf, activation: nn.Module) -> nn.Module:
    """Return the layer, changed in place to a class that applies the activation to its output."""
    layer.__class__ = DynamicErfAct if isinstance(layer, DynamicErf) else DynamicTanhAct
    layer.act = activation
    return layer
