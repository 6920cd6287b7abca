"""Tests of the GPU kernels' results, with Triton's interpreter and on a GPU if there is one.

Triton selects the interpreter when it is imported, so a separate process runs the kernels here. A
call takes milliseconds for small tensors and seconds for large ones.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

from dyt.backends import triton as gpu
from dyt.backends import triton_plan
from dyt.backends.reference import formula, gradients, result_dtype
from dyt.backends.triton_tuning import VARIANTS

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not hasattr(triton, "knobs"), reason="needs Triton 3.4")

FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16
LAYOUTS = {  # sizes of x, of γ and β, and the channel axis
    "last": ((3, 5, 7), (7,), -1),
    "trailing": ((3, 5, 7), (5, 7), -1),
    "wide": ((9, 600), (600,), -1),
    "tall": ((300, 20), (20,), -1),
    "one row": ((70,), (70,), -1),
    "first": ((2, 7, 5, 3), (7,), 1),
    "plane": ((2, 3, 16, 16), (3,), 1),
    "one image": ((1, 40, 3), (40,), 1),
    "no plane": ((4, 6, 1, 1), (6,), 1),
    "none": ((4, 6), None, -1),
    "none first": ((4, 6, 3), None, 1),
}
# One rounding of each result, as in test_functional.py, and sums of the 8 ulp of the rational
# function. The interpreter truncates to bfloat16 instead of rounding, with up to twice the error.
TOLERANCE = {FLOAT: (2e-6, 1e-5), BFLOAT: (2**-7, 1e-3), HALF: (2**-11, 2e-4)}
# tanh.approx and the polynomial: 2⁻¹¹ of numbers up to 4, in sums of 15, before the rounding.
FAST = (2**-7, 15 * 4 * 2**-11)

Run = Callable[..., Tensor | tuple[Tensor, ...]]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        pool.submit(os.getpid).result()  # starts the process
    with pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def on_gpu(function: Callable, *arguments) -> Tensor | tuple[Tensor, ...]:
    def to_gpu(t):
        if not isinstance(t, Tensor):
            return t
        base = t if t._base is None else t._base
        return base.cuda().as_strided(t.shape, t.stride(), t.storage_offset())

    found = function(*map(to_gpu, arguments))
    return found.cpu() if isinstance(found, Tensor) else tuple(f.cpu() for f in found)


@pytest.fixture(params=["interpreter", *(["gpu"] if torch.cuda.is_available() else [])])
def run(request) -> Run:
    return on_gpu if request.param == "gpu" else request.getfixturevalue("interpreter")


def parameters(width, squash: str = "tanh", dtype=FLOAT) -> tuple[Tensor | None, ...]:
    """Return random α, s, γ and β."""
    shift = torch.tensor([0.2]) if squash == "erf" else None
    weight, bias = (
        (None, None) if width is None else (1 + 0.3 * torch.randn(width), torch.randn(width))
    )
    return tuple(
        None if p is None else p.to(dtype) for p in (torch.tensor([0.7]), shift, weight, bias)
    )


def compare(
    run: Run,
    x: Tensor,
    given: tuple[Tensor | None, ...],
    axis: int = -1,
    squash: str = "tanh",
    accurate: bool = True,
    tolerance: tuple[float, float] | None = None,
) -> None:
    """Compare output and all gradients with the formula's in float64, from the same numbers."""
    dtype = result_dtype(x, *given)
    grad = torch.randn(x.shape).to(dtype)
    options = (squash, axis, accurate)
    y = run(gpu.forward, x, *given, *options)
    found = run(gpu.backward, grad, x, *given, *options)
    wide = [None if t is None else t.double() for t in (grad, x, *given)]
    exact = [formula(*wide[1:], squash, axis), *gradients(*wide, squash, axis)]
    dtypes_and_shapes = [(dtype, x.shape)] + [
        (FLOAT, (0,)) if t is None else (t.dtype, t.shape) for t in (x, *given)
    ]
    for value, expected, (type, shape) in zip((y, *found), exact, dtypes_and_shapes, strict=True):
        assert value.dtype == type and value.shape == shape and value.is_contiguous()
        rtol, atol = tolerance or TOLERANCE[type]
        atol = atol * max(1, expected.abs().max()) if expected.numel() else 0
        torch.testing.assert_close(value.double(), expected.view(shape), rtol=rtol, atol=atol)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_output_and_gradients_match_float64(run, dtype, layout):
    sizes, width, axis = LAYOUTS[layout]
    compare(run, (2 * torch.randn(sizes)).to(dtype), parameters(width, dtype=dtype), axis)


@pytest.mark.parametrize("squash", ["tanh", "erf"])
@pytest.mark.parametrize("accurate", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fast_and_accurate_tanh_and_erf(run, dtype, accurate, squash):
    x, given = 2 * torch.randn(15, 33), parameters(33, squash, dtype)
    tolerance = FAST if dtype == BFLOAT and not accurate else None
    compare(run, x.to(dtype), given, -1, squash, accurate, tolerance)


@pytest.mark.parametrize("axis", [-1, 1])
def test_erf_in_both_layouts_and_without_shift(run, axis):
    x = torch.randn(4, 5, 6)
    alpha, shift, weight, bias = parameters(6 if axis == -1 else 5, "erf")
    compare(run, x, (alpha, shift, weight, bias), axis, "erf")
    compare(run, x, (alpha, None, weight, bias), axis, "erf")
    compare(run, x, (alpha, shift, None, None), axis, "erf")


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 65, 100, 192, 513, 1028])
@pytest.mark.parametrize("rows", [1, 7])
def test_widths_not_power_of_two_or_vector_multiple(run, width, rows):
    compare(run, torch.randn(rows, width), parameters(width))


@pytest.mark.parametrize("inner", [(1,), (2,), (5, 7), (16, 16), (14, 14), (33, 40)])
@pytest.mark.parametrize("batch", [1, 3])
def test_channels_first(run, inner, batch):
    compare(run, torch.randn(batch, 5, *inner), parameters(5), 1)


STRIDED = {  # x, the channel axis, and True if the kernels read it without a copy
    "columns": (torch.randn(6, 9)[:, 1:], -1, True),
    "aligned columns": (torch.randn(6, 64)[:, 16:24], -1, True),
    "tokens": (torch.randn(4, 9, 8)[:, 1:], -1, True),
    "every other token": (torch.randn(4, 6, 8)[:, ::2], -1, True),
    "time first": (torch.randn(5, 3, 8).transpose(0, 1), -1, True),
    "the same row": (torch.randn(1, 8).expand(6, 8), -1, True),
    "heads": (torch.randn(2, 5, 3, 8).transpose(1, 2), -1, False),
    "one head": (torch.randn(2, 5, 3, 8)[:, :, 1], -1, True),
    "transposed": (torch.randn(8, 6).t(), -1, False),
    "every other channel": (torch.randn(6, 16)[:, ::2], -1, False),
    "some channels": (torch.randn(2, 12, 4, 4)[:, 2:10], 1, True),
    "some images": (torch.randn(6, 8, 5)[::2], 1, True),
    "crop": (torch.randn(2, 8, 6, 6)[:, :, 1:5, 1:5], 1, False),
    "swapped axes": (torch.randn(8, 4, 6).transpose(0, 1), 1, True),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strided_input(run, name):
    x, axis, _ = STRIDED[name]
    compare(run, x, parameters(8), axis)
    compare(run, x, parameters(None), axis)


@pytest.mark.parametrize("name", STRIDED)
def test_strided_input_is_copied_only_if_unsupported(name):
    x, axis, readable = STRIDED[name]
    grad = torch.randn(x.shape)
    found = triton_plan.find_layout(x.shape, (x.stride(), grad.stride()), 1, axis)
    assert (found is not None) == readable


def test_expanded_scalar_gradient(run):
    x, given = torch.randn(3, 5), parameters(5)
    ones = torch.ones(())
    options = ("tanh", -1, True)
    found = run(gpu.backward, ones.expand(3, 5), x, *given, *options)
    expected = run(gpu.backward, torch.ones(3, 5), x, *given, *options)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("x_type", TOLERANCE)
@pytest.mark.parametrize("type", TOLERANCE)
def test_mixed_dtypes(run, x_type, type):
    compare(run, torch.randn(5, 40).to(x_type), parameters(40, "erf", type), -1, "erf")


def test_alpha_without_dimensions_or_in_another_dtype(run):
    x, (_, _, weight, bias) = torch.randn(3, 8).to(BFLOAT), parameters(8, dtype=BFLOAT)
    compare(run, x, (torch.tensor(0.7), None, weight, bias))
    compare(run, x.float(), (torch.tensor([0.7]).to(BFLOAT), None, weight, bias.float()))


def test_weight_or_bias_alone(run):
    x, (alpha, _, weight, bias) = torch.randn(3, 40), parameters(40)
    compare(run, x, (alpha, None, weight, None))
    compare(run, x, (alpha, None, None, bias))


def test_noncontiguous_weight(run):
    weight = torch.randn(7, 5).t()
    compare(run, torch.randn(3, 5, 7), (torch.ones(1), None, weight, weight.flip(0)))


@pytest.mark.parametrize(
    ("sizes", "width", "axis"),
    [((0, 4), (4,), -1), ((2, 0, 4), (4,), -1), ((0, 4, 3), (4,), 1), ((3, 0), (0,), -1)],
)
def test_triton_kernel_accepts_empty_input(run, sizes, width, axis):
    compare(run, torch.empty(sizes), parameters(width), axis)


@pytest.mark.parametrize("squash", ["tanh", "erf"])
@pytest.mark.parametrize("accurate", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_infinities_zeros_and_nan(run, dtype, accurate, squash):
    infinite = float("inf")
    x = torch.tensor([infinite, -infinite, 0.0, -0.0, float("nan"), 1e4, -1e4, 9.6, -9.6])
    y = run(gpu.forward, x.to(dtype), torch.ones(1), None, None, None, squash, -1, accurate)
    assert y[:4].tolist() == [1, -1, 0, 0]
    assert y[:4].signbit().tolist() == [False, True, False, True]
    assert y.isnan().nonzero().tolist() == [[4]]
    assert y[5:].tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("squash", ["tanh", "erf"])
@pytest.mark.parametrize(
    ("dtype", "smallest", "rtol"),
    [(FLOAT, -100, 8 * 2**-23), (BFLOAT, -100, 2**-7 + 2**-10), (HALF, -12, 2**-11 + 2**-20)],
)
def test_relative_error_of_small_and_large_numbers(run, dtype, smallest, rtol, squash):
    x = torch.cat([torch.logspace(smallest, 3, 1500, base=2), torch.linspace(0.01, 10, 1500)])
    x = torch.cat([x, -x]).to(dtype)
    y = run(gpu.forward, x, torch.ones(1, dtype=dtype), None, None, None, squash, -1, False)
    right = torch.special.erf(x.double()) if squash == "erf" else torch.tanh(x.double())
    torch.testing.assert_close(y.double(), right, rtol=rtol, atol=0)
    assert y.abs().max() <= 1


@pytest.mark.parametrize("axis", [-1, 1])
def test_sums_over_many_tiles_are_bitwise_reproducible(run, axis):
    sizes, width = ((3000, 9), 9) if axis == -1 else ((2, 3, 6000), 3)
    x, given = torch.randn(sizes), parameters(width)
    arguments = (torch.randn(sizes), x, *given, "tanh", axis, False)
    first, second = (run(gpu.backward, *arguments) for _ in range(2))
    assert all(map(torch.equal, first, second))
    compare(run, x, given, axis, tolerance=(1e-5, 1e-5))


VARIANT = """
import torch
from dyt.backends import triton as gpu
from dyt.backends.reference import formula, gradients
from dyt.backends.triton_tuning import VARIANTS
torch.manual_seed(0)
x, grad = (2 * torch.randn(2, 37, 48)).bfloat16()
x[0, :4] = torch.tensor([0.02, -0.02, 100.0, -100.0])
given = [t.bfloat16() for t in (torch.tensor([0.7]), torch.rand(48) + 0.5, torch.randn(48))]
given.insert(1, None)
wide = [None if t is None else t.double() for t in (grad, x, *given)]
exact = [formula(*wide[1:], "tanh", -1), *gradients(*wide, "tanh", -1)]
with gpu.use_tuning(VARIANTS[NAME]):
    y = gpu.forward(x, *given, "tanh", -1, False)
    found = [y, *gpu.backward(grad, x, *given, "tanh", -1, False)]
for value, expected in zip(found, exact, strict=True):
    if expected.numel():
        atol = 1e-3 * max(1, expected.abs().max())
        torch.testing.assert_close(value.double(), expected, rtol=2**-7, atol=atol)
"""


@pytest.mark.parametrize("name", VARIANTS)
def test_tuning_variants_match_float64(interpreter, name):
    interpreter(exec, VARIANT, {"NAME": name})


FINAL = """
import torch
from dyt.backends import triton as gpu, triton_choice
x, grad = torch.randn(2, 600, 3)
rest = (torch.ones(1), torch.zeros(1), torch.rand(3), torch.rand(3), "erf", -1, True)
expected = gpu.backward(grad, x, *rest)
tile = triton_choice._FINAL_TILE
triton_choice._FINAL_TILE = (2, 1)  # adds four programs' sums in two rounds
gpu._find_backward.cache_clear()
try:
    found = gpu.backward(grad, x, *rest)
finally:
    triton_choice._FINAL_TILE = tile
    gpu._find_backward.cache_clear()
for a, b in zip(found, expected, strict=True):
    torch.testing.assert_close(a, b)
"""


def test_add_partial_sums_over_several_rounds(interpreter):
    interpreter(exec, FINAL, {})


FAR = """
import torch
from dyt.backends import triton as gpu
from dyt.backends.triton_plan import plan_launch
stride = 2**30 + 8  # the third row begins beyond 2³¹, where a 32-bit offset is negative
memory = torch.empty(2 * stride + 8, dtype=torch.bfloat16)  # only three pages are touched
far = memory.as_strided((3, 8), (stride, 1))
far.copy_(torch.randn(3, 8))
near = far.clone(memory_format=torch.contiguous_format)
rest = (torch.ones(1), None, torch.rand(8), torch.rand(8), "tanh", -1, True)
launch = plan_launch(far.shape, (far.stride(),), 1, -1, 2, 4, 4)
assert launch.constants["INT64"] and not launch.constants["CONTIGUOUS"]
assert torch.equal(gpu.forward(far, *rest), gpu.forward(near, *rest))
for a, b in zip(gpu.backward(near, far, *rest), gpu.backward(near, near, *rest), strict=True):
    assert torch.equal(a, b)
"""


def test_offsets_beyond_32_bits(interpreter):
    interpreter(exec, FAR, {})


def test_plan_uses_64_bit_offsets_for_large_sizes():
    """Check only the constant that the kernels are compiled with; a run needs a large GPU."""
    for axis, sizes, int64 in (
        (-1, (2**19, 4096), True),
        (1, (2**12, 8, 2**16), True),
        (-1, (4096, 4096), False),
    ):
        strides = torch.empty(sizes, device="meta").stride()
        launch = triton_plan.plan_launch(sizes, (strides,), 1, axis, 2, 4, 1000)
        assert launch.constants["INT64"] == int64


def test_triton_problem_messages(monkeypatch):
    monkeypatch.setattr(gpu, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu._problem() is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpu._problem() == "no CUDA device was found"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu._problem() == "torch was built without CUDA"
    monkeypatch.setattr(gpu, "INTERPRETED", True)
    assert gpu._problem() is None
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu._problem() == "Triton is not installed"
