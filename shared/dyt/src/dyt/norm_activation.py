"""DyT and Derf followed by an activation in one module, as timm's LayerNormAct2d is for LN."""

from __future__ import annotations

from torch import Tensor, nn

from dyt.layers import Derf, DyT


class DyTAct(DyT):
    """act(DyT(x)). The parameters have the names of `DyT`, and `act` is the activation."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class DerfAct(Derf):
    """act(Derf(x)). The parameters have the names of `Derf`, and `act` is the activation."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def add_activation(layer: DyT | Derf, activation: nn.Module) -> nn.Module:
    """Return the layer, changed in place to a class that applies the activation to its output."""
    layer.__class__ = DerfAct if isinstance(layer, Derf) else DyTAct
    layer.act = activation
    return layer
