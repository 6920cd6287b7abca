"""Liger-Kernel's DyT: output and gradients of its kernel and of our layer.

Without a GPU the kernel runs in Triton's interpreter, at a small size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from claims import Claim, largest_difference, relative_gradients, use_checkout

from dyt import DyT

BOUND = 2e-6
ROWS, WIDTH = 6, 80


def claims(checkout: Path) -> Iterator[Claim]:
    interpreted = not torch.cuda.is_available()
    if interpreted:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    use_checkout(checkout / "src")
    from liger_kernel.ops import dyt as kernel
    from liger_kernel.transformers.dyt import LigerDyT

    with ExitStack() as stack:
        if interpreted:
            for patch in for_interpreter(kernel):
                stack.enter_context(patch)
        for bias in (True, False):
            yield from layer(LigerDyT, "cpu" if interpreted else "cuda", bias)


def layer(official: type[torch.nn.Module], device: str, bias: bool) -> Iterator[Claim]:
    """Yield claims about a layer with or without β."""
    torch.manual_seed(0)
    theirs = official(WIDTH, beta=bias, init_alpha=0.7).to(device)
    ours = DyT(WIDTH, alpha0=0.7, bias=bias).to(device)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            ours.get_parameter(OURS[name]).copy_(parameter)
    inputs = [torch.randn(ROWS, WIDTH, generator=seeded()).to(device) for _ in range(2)]
    outputs = [m(x.requires_grad_()) for m, x in zip((ours, theirs), inputs, strict=True)]
    for output in outputs:
        output.backward(torch.randn(ROWS, WIDTH, generator=seeded()).to(device))
    name = f"Liger's DyT {'with' if bias else 'without'} β"
    note = "Triton's interpreter" if device == "cpu" else torch.cuda.get_device_name()
    difference = largest_difference(outputs[:1], outputs[1:])
    yield Claim(text=f"{name}: output", bound=BOUND, measured=difference, note=note)
    difference = largest_difference(*([x.grad] for x in inputs))
    yield Claim(text=f"{name}: gradient of the input", bound=BOUND, measured=difference, note=note)
    yield Claim(
        text=f"{name}: gradients of its parameters, relative to each tensor's largest",
        bound=BOUND,
        measured=relative_gradients(ours, theirs, OURS),
        note=note,
    )


OURS = {"alpha": "alpha", "gamma": "weight", "beta": "bias"}
"""Liger's names of parameters → ours."""


def for_interpreter(kernel: Any) -> Iterator[Any]:
    """Yield patches for a machine without a GPU.

    They are one multiprocessor, no tuning by time, tanh by its formula instead of CUDA's library,
    which the interpreter lacks, and ranges whose bounds are integers: Triton 3.6's interpreter
    passes arrays of one value, which NumPy 2.4 does not convert.
    """
    import triton.language as tl

    gpu = SimpleNamespace(multi_processor_count=1)
    yield mock.patch.object(kernel, "range", integer_range, create=True)
    yield mock.patch.object(kernel, "tanh", lambda x: 1 - 2 / (tl.exp(2 * x) + 1))
    yield mock.patch.object(kernel, "infer_device", lambda: "cuda")
    yield mock.patch.object(torch.cuda, "get_device_properties", lambda device: gpu)
    for function in (kernel._dyt_fwd_kernel, kernel._dyt_bwd_kernel):
        yield mock.patch.object(function, "configs", function.configs[:1])


def integer_range(*bounds: Any) -> range:
    """Return a range from numbers and the interpreter's tensors."""
    return range(*(b if isinstance(b, int) else b.handle.data.item() for b in bounds))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
