"""Holds LN and BN for either place of the channels, where a comparison puts one for the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dyt.layers import check_axis, check_width


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LN of each position over its channels at axis 1: ConvNeXt's, for any number of positions.

    Of the ways to normalize an image this is the one that does in a ConvNet what LN does in a
    Transformer, where each token is normalized by itself ("A ConvNet for the 2020s", CVPR 2022;
    LayerNorm2d in timm and torchvision). Channels last need no more than nn.LayerNorm.

    Shapes: input and output (B, C, …). Parameters `weight` and `bias` of shape (C,).

    Args:
        num_channels: the width C.
        options: eps (1e-5), elementwise_affine, bias, device and dtype, as for nn.LayerNorm.

    Raises:
        ValueError: `num_channels` is not a positive int; in forward, x has another width.
    """

    def __init__(self, num_channels: int, **options: Any) -> None:
        super().__init__(_check_channels("num_channels", num_channels), **options)

    def forward(self, x: Tensor) -> Tensor:
        check_width(self, x, self.normalized_shape, 1)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


# The private base of nn.BatchNorm1d, 2d and 3d: PyTorch has no public one.
class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BN ("Batch Normalization", ICML 2015) of each channel over the batch and all positions.

    What nn.BatchNorm1d, 2d and 3d compute, for any number of positions, and for channels last as
    well; names and shapes in the state dict are theirs. nn.SyncBatchNorm has its channels at axis
    1, so convert_sync_batchnorm is not for a network with channels last.

    Shapes: input and output (B, C, …), or (…, C) with channel_axis=-1. Parameters `weight` and
    `bias` and running statistics of shape (C,).

    Args:
        num_features: the width C.
        channel_axis: 1, as in NCHW, or -1.
        eps, momentum: torch's defaults.
        affine: False leaves out γ and β.
        bias: False leaves out β.

    Raises:
        ValueError: an argument outside of the above; in forward, x has another width, or, while
            training, a single value per channel.
    """

    def __init__(
        self,
        num_features: int,
        *,
        channel_axis: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_channels("num_features", num_features)
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype)
        self.channel_axis = check_axis(channel_axis, (num_features,))
        if not bias:
            self.bias = None

    def reset_parameters(self) -> None:
        """Reset the running statistics, and set γ to 1 and β to 0. Draws no random number."""
        self.reset_running_stats()
        for parameter, start in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                nn.init.constant_(parameter, start)

    def forward(self, x: Tensor) -> Tensor:
        check_width(self, x, (self.num_features,), self.channel_axis)
        if self.channel_axis == 1:
            return super().forward(x)
        # With two axes, the last one is axis 1.
        return super().forward(x.reshape(-1, self.num_features)).reshape(x.shape)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes will do: the width was checked in forward."""

    def extra_repr(self) -> str:
        notes = [super().extra_repr(), f"channel_axis={self.channel_axis}"]
        if self.affine and self.bias is None:
            notes.append("bias=False")
        return ", ".join(notes)


def _check_channels(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r} is not a number of channels: pass a positive int.")
    return value
