"""The selective scan of Mamba behind one interface, and the choice of its implementation.

Gu and Dao 2023 (arXiv 2312.00752), Algorithm 2: hₜ = exp(δₜA)·hₜ₋₁ + δₜ·Bₜ·uₜ and
yₜ = Cₜ·hₜ + D·uₜ, for every inner channel with states of its own. There are three implementations,
equal to rounding: mamba-ssm's CUDA kernels, this package's Triton kernels, and plain PyTorch. One
of them is chosen once for a kind of device, by what can run; ``record_scan`` writes the choice into
the run's environment.json.
"""

from __future__ import annotations

import logging
import os
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt_caduceus.scan_backends import mamba_kernels, torch_loop, triton_scan
from matched.task import Context

log = logging.getLogger("matched")

VARIABLE = "DYT_SCAN"
"""Environment variable that names the implementation, or "auto"."""
SCANS = ("mamba-ssm", "triton", "torch")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    *,
    scan: str | None = None,
) -> Tensor:
    """Return the gated output y·SiLU(z) of a selective scan, (B, D, L) with the dtype of ``u``.

    The states are float32, or float64 for inputs of that dtype, also under autocast.

    Args:
        u: input, (B, D, L).
        delta: step sizes before bias and softplus, (B, D, L).
        A: (D, N), negative.
        B: (B, N, L).
        C: (B, N, L).
        D: weight of the skip connection, (D,).
        z: gate, (B, D, L).
        delta_bias: (D,).
        scan: one of ``SCANS``; None for ``choose_scan``.

    Raises:
        ValueError: if the implementation cannot run on this device.
    """
    scan = choose_scan(u.device.type, scan)
    if scan == "mamba-ssm":
        return mamba_kernels.scan(u, delta, A, B, C, D, z, delta_bias)
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        inputs, delta, z_wide = u.to(dtype), delta.to(dtype), z.to(dtype)
        delta = F.softplus(delta + delta_bias.to(dtype)[:, None])
        function = triton_scan.scan if scan == "triton" else torch_loop.scan
        y = function(inputs, delta, A.to(dtype), B.to(dtype), C.to(dtype))
        y = torch.addcmul(y, inputs, D.to(dtype)[:, None]) * F.silu(z_wide)
    return y.to(u.dtype)


def choose_scan(device: str, scan: str | None = None) -> str:
    """Return the implementation for a kind of device, "cuda" or "cpu": one of ``SCANS``.

    On a GPU it is mamba-ssm's kernels if they are installed, otherwise those in Triton. Plain
    PyTorch runs there only on request, because it is many times slower. On the CPU it is plain
    PyTorch.

    Args:
        device: device type of the tensors.
        scan: one of ``SCANS`` or "auto"; None for the environment variable DYT_SCAN, and "auto"
            without it.

    Raises:
        ValueError: if this implementation, or on a GPU none at all, can run. A broken mamba-ssm is
            an error even if Triton could take its place.
    """
    return _choose(device, os.environ.get(VARIABLE, "auto") if scan is None else scan)


def record_scan(context: Context, device: str) -> str:
    """Choose the implementation for a run and write its name into environment.json.

    Called by all processes at the start of a task.

    Raises:
        ValueError: as ``choose_scan``.
    """
    scan = choose_scan(device)
    log.info("selective scan: %s, on %s", scan, device)
    context.record_environment(selective_scan=scan)
    return scan


@cache
def _choose(device: str, scan: str) -> str:
    if scan not in (*SCANS, "auto"):
        known = ", ".join(SCANS)
        raise ValueError(f"{VARIABLE} is {scan!r}; expected auto or one of {known}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "a GPU was asked for the selective scan, but torch finds none; run on a machine with "
            "an NVIDIA GPU and a CUDA build of torch, or on the CPU"
        )
    if device != "cuda":
        return _choose_without_gpu(device, scan)
    if scan == "torch":
        log.warning("the selective scan runs in plain PyTorch on a GPU, as %s=torch asks", VARIABLE)
        return scan
    if scan == "mamba-ssm" or (scan == "auto" and mamba_kernels.installed()):
        if (problem := mamba_kernels.problem()) is not None:
            raise ValueError(
                f"{problem}; install it again with `{mamba_kernels.COMMAND}`, or set "
                f"{VARIABLE}=triton"
            )
        return "mamba-ssm"
    if (problem := triton_scan.problem()) is not None:
        raise ValueError(
            f"no kernel for the selective scan: {problem}, and mamba-ssm is not in use; install it "
            f"with `{mamba_kernels.COMMAND}`, or set {VARIABLE}=torch for the many times slower "
            "plain scan"
        )
    if scan == "auto":
        log.warning(
            "the selective scan uses this package's Triton kernels; `%s` installs mamba-ssm's",
            mamba_kernels.COMMAND,
        )
    return "triton"


def _choose_without_gpu(device: str, scan: str) -> str:
    if scan == "mamba-ssm" or (scan == "triton" and not triton_scan.interpreted()):
        raise ValueError(
            f"{VARIABLE} is {scan}, which needs a GPU, but this run is on {device!r}; use a "
            f"machine with an NVIDIA GPU, or set {VARIABLE}=auto"
        )
    return "triton" if scan == "triton" else "torch"
