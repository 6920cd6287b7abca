"""The selective scan in Triton: launches of its kernels, and the reason why they cannot run.

States are computed by parallel scans over chunks of time. Only the inputs and the state in front
of each chunk are kept. The backward pass first computes the gradient that enters each chunk from
the next one. Then all chunks are independent: one program per chunk recomputes the states and
computes the gradients of all channels. All sums have a fixed order, so results are reproducible
bit by bit.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64
"""Time steps of a chunk: with 16 states, a tile of 8 elements for each of 128 threads."""


def interpreted() -> bool:
    """True if Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def problem() -> str | None:
    """Return the reason why the kernels cannot run, in one phrase, or None if they can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    return None


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return Cₜ·hₜ of the states hₜ = exp(δₜA)·hₜ₋₁ + δₜ·Bₜ·uₜ, as (B, D, L).

    Args:
        u: input, (B, D, L), float32, like all other tensors.
        delta: step sizes, (B, D, L).
        A: (D, N).
        B: (B, N, L).
        C: (B, N, L).
    """
    apply: Any = _Scan.apply  # torch has no annotations for it
    y: Tensor = apply(*(t.contiguous() for t in (u, delta, A, B, C)))
    return y


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        batch, channels, length = u.shape
        y = torch.empty_like(u)
        # The state in front of each chunk.
        starts = u.new_empty(batch, channels, _chunks(length), A.shape[1])
        with torch.cuda.device_of(u):
            _kernels().forward[batch, channels](u, delta, A, B, C, y, starts, **_sizes(u, A))
        ctx.save_for_backward(u, delta, A, B, C, starts)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, C, starts = ctx.saved_tensors
        dy = dy.contiguous()
        batch, channels, length = u.shape
        ends, dA = torch.empty_like(starts), torch.empty_like(starts)
        du, ddelta, dB, dC = (torch.empty_like(t) for t in (u, delta, B, C))
        sizes = _sizes(u, A)
        with torch.cuda.device_of(u):
            _kernels().backward_ends[batch, channels](dy, delta, A, C, ends, **sizes)
            _kernels().backward[batch, _chunks(length)](
                dy, u, delta, A, B, C, starts, ends, du, ddelta, dA, dB, dC, **sizes
            )
        return du, ddelta, dA.sum((0, 2)), dB, dC


def _chunks(length: int) -> int:
    return -(-length // CHUNK)


def _sizes(u: Tensor, A: Tensor) -> dict[str, int]:
    """Return the kernels' constants; they are compiled once for each length."""
    states = A.shape[1]
    return {
        "CHANNELS": u.shape[1],
        "LENGTH": u.shape[2],
        "STATES": states,
        "BLOCK_N": 1 << (states - 1).bit_length(),
        "CHUNK": CHUNK,
    }


@cache
def _kernels() -> ModuleType:
    return import_module("dyt_caduceus.scan_backends.triton_scan_kernels")
