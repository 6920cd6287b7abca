"""The selective scan by mamba-ssm's CUDA kernels, if they are installed.

Its compiled module ``selective_scan_cuda`` is used directly. The package around it also imports its
other models, and with them tilelang and names of transformers that not every version has.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

COMMAND = (
    "MAMBA_KEEP_CUDA_BUILD=TRUE .venv/bin/python -m pip install --no-deps --no-build-isolation "
    "mamba-ssm==2.3.2.post1"
)
"""Installation of the kernels, which packages/caduceus/README.md describes."""
SOFTPLUS = True
RECOMPUTE_OUTPUT = False


def installed() -> bool:
    """True if a package mamba-ssm is installed, even if it is broken."""
    return find_spec("mamba_ssm") is not None or find_spec("selective_scan_cuda") is not None


@cache
def problem() -> str | None:
    """Return the reason why the kernels cannot be used, in one line, or None if they can."""
    if not installed():
        return "mamba-ssm is not installed"
    if find_spec("selective_scan_cuda") is None:
        # Newer releases install without the kernel of Mamba's first version by default.
        return "mamba-ssm is installed without its kernel selective_scan_cuda"
    try:
        import_module("selective_scan_cuda")
    except Exception as error:  # an undefined symbol, a missing library, another torch
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return f"mamba-ssm is installed but broken ({cause[:300]})"
    return None


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
) -> Tensor:
    """Return the gated output of ``selective_scan``, (B, D, L); arguments as there.

    The kernels read inputs of one dtype, also half precision, and compute in float32.
    """
    inputs = (tensor.to(u.dtype).contiguous() for tensor in (u, delta, B, C, z))
    parameters = (tensor.float().contiguous() for tensor in (A, D, delta_bias))
    apply: Any = _Scan.apply  # torch has no annotations for it
    y: Tensor = apply(*inputs, *parameters)
    return y


class _Scan(torch.autograd.Function):
    """The kernels' forward and backward pass; B and C have an axis of groups there, one here."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        B: Tensor,
        C: Tensor,
        z: Tensor,
        A: Tensor,
        D: Tensor,
        delta_bias: Tensor,
    ) -> Tensor:
        arguments = (u, delta, A, B[:, None], C[:, None], D, z, delta_bias)
        y, states, gated = _kernels().fwd(*arguments, SOFTPLUS)
        ctx.save_for_backward(*arguments, states, y)
        output: Tensor = gated
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        *arguments, states, y = ctx.saved_tensors
        du, ddelta, dA, dB, dC, dD, ddelta_bias, dz = _kernels().bwd(
            *arguments, dy.contiguous(), states, y, None, SOFTPLUS, RECOMPUTE_OUTPUT
        )
        return du, ddelta, dB[:, 0], dC[:, 0], dz, dA, dD, ddelta_bias


@cache
def _kernels() -> Any:
    return import_module("selective_scan_cuda")
