"""LN and BN for channels at axis 1 or last, for comparisons that replace one by the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dyt.layers import check_axis, check_width


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LN of each position over its channels at axis 1, as in ConvNeXt, for any number of axes.

    In a ConvNet this is the counterpart of a Transformer's LN, which normalizes each token
    separately ("A ConvNet for the 2020s", CVPR 2022; LayerNorm2d in timm and torchvision). For
    channels last, use nn.LayerNorm.

    Shapes: input and output (B, C, …). Parameters `weight` and `bias` of shape (C,).

    Args:
        num_channels: the width C.
        options: eps (1e-5), elementwise_affine, bias, device and dtype, as for nn.LayerNorm.

    Raises:
        ValueError: `num_channels` is not a positive int; in forward, x has a different width.
    """

    def __init__(self, num_channels: int, **options: Any) -> None:
        super().__init__(_check_channels("num_channels", num_channels), **options)

    def forward(self, x: Tensor) -> Tensor:
        check_width(self, x, self.normalized_shape, 1)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


# The private base of nn.BatchNorm1d, 2d and 3d: PyTorch has no public one.
class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BN ("Batch Normalization", ICML 2015) of each channel over the batch and all positions.

    Computes the same as nn.BatchNorm1d, 2d and 3d, for any number of axes and also for channels
    last; names and shapes in the state dict are the same. nn.SyncBatchNorm has its channels at
    axis 1, so convert_sync_batchnorm does not support a network with channels last.

    Shapes: input and output (B, C, …), or (…, C) with channel_axis=-1. Parameters `weight` and
    `bias` and running statistics of shape (C,).

    Args:
        num_features: the width C.
        channel_axis: 1, as in NCHW, or -1.
        eps: by default torch's.
        momentum: by default torch's.
        affine: False omits γ and β.
        bias: False omits β.

    Raises:
        ValueError: an argument is invalid; in forward, x has a different width or, in training
            mode, a single value per channel.
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
            self.register_parameter("bias", None)

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
        """Accept any number of axes: forward has checked the width."""

    def extra_repr(self) -> str:
        notes = [super().extra_repr(), f"channel_axis={self.channel_axis}"]
        if self.affine and self.bias is None:
            notes.append("bias=False")
        return ", ".join(notes)


def _check_channels(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r} is not a number of channels. Pass a positive int.")
    return value
