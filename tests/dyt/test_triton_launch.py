"""Tests of launches of compiled GPU kernels, with kernels that check their arguments."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from dyt.backends import triton as gpu
from dyt.backends import triton_choice

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not hasattr(triton, "knobs"), reason="needs Triton 3.4")

FLOAT, BFLOAT = torch.float32, torch.bfloat16


def dtypes(tensors):
    return [None if t is None else t.dtype for t in tensors]


class Kernel:
    """A kernel that computes nothing, and is compiled for the dtypes of its tensors."""

    def __init__(self, kernel):
        self.arg_names = kernel.arg_names
        self.launches = []

    def __getitem__(self, grid):
        return self.launch_by_triton

    def launch_by_triton(self, *arguments, **constants):
        self.launches.append("by Triton")
        compiled_for = dtypes(a for a in arguments if not isinstance(a, int))

        def launch_compiled(*arguments):
            self.launches.append("compiled")
            assert dtypes(arguments[: len(compiled_for)]) == compiled_for

        return defaultdict(lambda: launch_compiled)


@pytest.fixture
def kernels(monkeypatch):
    from dyt.backends import triton_kernels

    names = ("forward", "backward", "add_partial_sums")
    stubs = SimpleNamespace(
        INTERPRETED=False, **{name: Kernel(getattr(triton_kernels, name)) for name in names}
    )
    monkeypatch.setattr(triton_choice, "_kernels", lambda: stubs)
    gpu._find_forward.cache_clear()
    gpu._find_backward.cache_clear()
    yield stubs
    gpu._find_forward.cache_clear()
    gpu._find_backward.cache_clear()


def launch(x, alpha=FLOAT, shift=None, squash="erf"):
    """Launch all kernels for scalars of these dtypes; γ and β are in float32."""
    scalars = [None if dtype is None else torch.ones(1, dtype=dtype) for dtype in (alpha, shift)]
    arguments = (x, *scalars, torch.ones(8), torch.ones(8), squash, -1, False)
    gpu.backward(torch.ones(x.shape), *arguments)
    gpu.forward(*arguments)


def test_compiled_kernels_are_launched_at_aligned_addresses(kernels):
    memory = torch.ones(64)
    for _ in range(2):
        launch(memory[:32].view(4, 8))
    launch(memory[1:33].view(4, 8))
    expected = ["by Triton", "compiled", "by Triton"]
    assert kernels.forward.launches == kernels.backward.launches == expected
    # Its tensors are allocated by the backward pass.
    assert kernels.add_partial_sums.launches == ["by Triton", "compiled", "compiled"]


@pytest.mark.parametrize("shift", [None, FLOAT, BFLOAT])
@pytest.mark.parametrize("alpha", [FLOAT, BFLOAT])
def test_compiled_kernels_are_launched_for_the_dtypes_of_scalars(kernels, alpha, shift):
    x = torch.ones(4, 8)
    launch(x)
    launch(x, alpha, shift)
    launch(x)
    reused = ["by Triton", "compiled", "compiled"]
    expected = reused if (alpha, shift) == (FLOAT, None) else ["by Triton", "by Triton", "compiled"]
    for kernel in (kernels.forward, kernels.backward, kernels.add_partial_sums):
        assert kernel.launches == expected
