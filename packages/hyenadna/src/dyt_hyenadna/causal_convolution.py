"""Causal convolution with filters as long as the sequence, as a torch operator over FFTs.

Torch's own gradient of a real transform is a complex one of the full size, which takes twice as
long, and it saves the spectra. The gradients here use real transforms and save the inputs alone. An
operator, and not an autograd.Function, because torch.compile (2.11) silently gives wrong gradients
for the latter in this network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ODD_PARTS = tuple(3**threes * 5**fives for threes in range(6) for fives in range(4))
"""Odd parts of the sizes of transforms."""
GROUP_BYTES = 1 << 24
"""Size of the spectra that are computed at a time on a CPU, at most."""


def causal_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """Convolve each channel with its filter: y[l] = Σ filters[m] · x[l - m] over m = 0 … l.

    The transforms are computed in float32, whatever the type of x: half types overflow in them, and
    are supported for few lengths and devices only. There are no second derivatives.

    Args:
        x: (B, D, L).
        filters: (D, L).

    Returns:
        (B, D, L), in the type of x.
    """
    return torch.ops.dyt_hyenadna.causal_convolution(x, filters)


def fast_fft_size(least: int) -> int:
    """Return a small even number, ``least`` or more, whose prime factors are 2, 3 and 5.

    Such sizes are fast on CPUs and GPUs; a linear convolution of length L needs 2 L - 1 or more.
    The official code transforms 2 L values, which is several times slower where L has a large prime
    factor.
    """
    return min(odd << max(1, (-(-least // odd) - 1).bit_length()) for odd in ODD_PARTS)


library = torch.library.Library("dyt_hyenadna", "DEF")
library.define("causal_convolution(Tensor x, Tensor filters) -> Tensor")
library.define(
    "causal_convolution_backward(Tensor grad, Tensor x, Tensor filters) -> (Tensor, Tensor)"
)


def _forward(x: Tensor, filters: Tensor) -> Tensor:
    length = x.shape[-1]
    size = fast_fft_size(2 * length - 1)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part in _channel_groups(x, size):
        spectrum = _rfft(x[:, part], size).mul_(_rfft(filters[part], size))
        y[:, part] = _irfft(spectrum, size, length)
    return y


def _backward(grad: Tensor, x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    length = x.shape[-1]
    size = fast_fft_size(2 * length - 1)
    x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
    filters_grad = torch.empty_like(filters, memory_format=torch.contiguous_format)
    for part in _channel_groups(x, size):
        spectrum = _rfft(grad[:, part], size)
        correlation = _rfft(x[:, part], size).conj_physical_().mul_(spectrum)
        filters_grad[part] = _irfft(correlation.sum(dim=0), size, length)
        del correlation
        spectrum.mul_(_rfft(filters[part], size).conj_physical_())
        x_grad[:, part] = _irfft(spectrum, size, length)
    return x_grad, filters_grad


def _channel_groups(x: Tensor, size: int) -> list[slice]:
    """Return the ranges of channels whose spectra are computed at a time: on a GPU, one of all.

    The C library returns freed blocks above 32 MB to the system, and every page of a new one costs
    a fault: in long sequences as much time as the transforms.
    """
    channels = x.shape[1]
    spectrum = 4 * size * x.shape[0]  # bytes of one channel
    count = max(1, GROUP_BYTES // spectrum) if x.device.type == "cpu" else channels
    return [slice(start, start + count) for start in range(0, channels, count)]


def _rfft(x: Tensor, size: int) -> Tensor:
    return torch.fft.rfft(x.float(), n=size)


def _irfft(spectrum: Tensor, size: int, length: int) -> Tensor:
    return torch.fft.irfft(spectrum, n=size)[..., :length]


library.impl("causal_convolution", _forward, "CompositeExplicitAutograd")
library.impl("causal_convolution_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("dyt_hyenadna::causal_convolution", lib=library)
def _forward_shape(x: Tensor, filters: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("dyt_hyenadna::causal_convolution_backward", lib=library)
def _backward_shapes(grad: Tensor, x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), filters.new_empty(filters.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.dyt_hyenadna.causal_convolution_backward(grad, *ctx.saved_tensors)


torch.library.register_autograd(
    "dyt_hyenadna::causal_convolution", _derivative, setup_context=_setup_context, lib=library
)
