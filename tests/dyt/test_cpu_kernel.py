"""Tests of the C++ kernel: accuracy, special values, layouts, threads and instruction sets."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dyt.backends import cpu
from dyt.functional import derf, dyt

ONE = torch.ones(1)
ULP = {False: 8.0, True: 1.5}  # the largest measured error is 7.7, without fused multiply-add
FUNCTIONS = {"tanh": (dyt, torch.tanh), "erf": (derf, torch.erf)}
SMALLEST = 2.0**-118  # below this, rounding of subnormal numbers adds to the error


def squash(x: Tensor, accurate: bool = False, name: str = "tanh") -> Tensor:
    """Return the kernel's tanh or erf, without γ and β."""
    return FUNCTIONS[name][0](x, ONE.to(x.dtype), backend="cpu", accurate=accurate)


def all_numbers(dtype: torch.dtype) -> Tensor:
    """Return every bit pattern of a 16-bit type."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def grid(lowest: float = SMALLEST, highest: float = 20.0, step: int = 1009) -> Tensor:
    """Return every `step`-th float32 between two numbers, in order."""
    first, last = torch.tensor([lowest, highest]).view(torch.int32).tolist()
    return torch.arange(first, last, step, dtype=torch.int32).view(torch.float32)


def ulps(found: Tensor, exact: Tensor) -> float:
    """Return the largest error in units of the last place of float32 at the exact value."""
    exponent = torch.frexp(exact.float()).exponent.double()
    return ((found.double() - exact).abs() / torch.exp2(exponent - 24)).max().item()


def test_cpu_kernel_is_installed():
    assert cpu.PROBLEM is None
    assert importlib.util.find_spec("_dyt_cpu_2") is not None


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("accurate", [False, True])
def test_float32_error_bound_and_odd_symmetry(name, accurate):
    x = grid()
    y, exact = squash(x, accurate, name), FUNCTIONS[name][1](x.double())
    assert ulps(y, exact) < ULP[accurate]
    assert torch.equal(squash(-x, accurate, name), -y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_subnormal_numbers(name):
    x = torch.cat([torch.arange(1, 2**20, 1001).int().view(torch.float32), grid(2**-126, SMALLEST)])
    exact = FUNCTIONS[name][1](x.double())
    assert ((squash(x, False, name) - exact).abs() <= 8 * 2**-24 * exact + 2.0**-141).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("accurate", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_types_for_every_number(name, dtype, accurate):
    x = all_numbers(dtype)
    y, expected = squash(x, accurate, name), FUNCTIONS[name][1](x.double()).to(dtype)
    real = ~x.isnan()
    assert torch.equal(y.isnan(), x.isnan())
    # Bit patterns of one sign are ordered like the numbers: a difference of 1 is a neighbour.
    distance = (y.view(torch.int16).int() - expected.view(torch.int16).int())[real].abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 0.002  # results almost halfway between two numbers
    assert torch.equal(y.signbit()[real], x.signbit()[real])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("accurate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_infinities_zeros_and_nan(dtype, accurate, name):
    infinite, zero = float("inf"), 0.0
    x = torch.tensor([infinite, -infinite, zero, -zero, float("nan"), 1e4, -1e4, 9.6, -9.6])
    y = squash(x.to(dtype), accurate, name)
    assert y[:4].tolist() == [1, -1, 0, 0]
    assert y[:4].signbit().tolist() == [False, True, False, True]
    assert y[4].isnan()
    assert y[5:].tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize(("name", "start", "end"), [("tanh", 8.5, 9.6), ("erf", 3.6, 4.0)])
def test_monotone_at_clamp_and_at_most_one(name, start, end):
    x = torch.linspace(start, end + 0.4, 200_001)
    y = squash(x, False, name)
    assert y.max() == 1
    assert torch.equal(y[x >= end], torch.ones(int((x >= end).sum())))
    assert (y.cummax(0).values - y).max() <= 10 * 2**-24  # may decrease by twice its error


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_vanish_in_saturation(name, dtype):
    x = torch.tensor([30.0, -30.0, float("inf"), 12.0], dtype=dtype, requires_grad=True)
    squash(x, name=name).sum().backward()
    assert x.grad[[0, 1, 3]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accurate", [False, True])
def test_nan_propagates_to_gradient(name, dtype, accurate):
    x = torch.zeros(70, dtype=dtype)
    x[37] = float("nan")
    x.requires_grad_()
    squash(x, accurate, name).sum().backward()
    assert x.grad.isnan().nonzero().tolist() == [[37]]


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_alpha_of_any_bit_pattern(name, bits):
    """A zero-dimensional α may be float32 in a bfloat16 network, with more NaN bits."""
    alpha = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    x = torch.randn(40, dtype=torch.bfloat16, requires_grad=True)
    y = FUNCTIONS[name][0](x, alpha, backend="cpu")
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert y.isnan().all() and x.grad.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_does_not_affect_other_elements(dtype):
    x = torch.zeros(100, dtype=dtype)
    x[37] = float("nan")
    assert squash(x).isnan().nonzero().tolist() == [[37]]


def compare(x: Tensor, weight_sizes: tuple[int, ...] | None, axis: int = -1) -> None:
    """Compare output and all gradients of the kernel with the formula in float64."""
    found = []
    weight = None if weight_sizes is None else torch.rand(weight_sizes)
    bias = None if weight_sizes is None else torch.rand(weight_sizes)
    direction = torch.randn(x.shape)
    for backend in ("cpu", "reference"):
        wide = torch.float64 if backend == "reference" else torch.float32
        given = [t for t in (torch.tensor([0.7]), weight, bias) if t is not None]
        given = [t.to(wide).requires_grad_() for t in given]
        leaf = x.detach().to(wide).requires_grad_()  # keeps the strides
        y = dyt(leaf, *given, channel_axis=axis, backend=backend)
        found.append([y, *torch.autograd.grad(y, [leaf, *given], direction.to(wide))])
    for got, expected in zip(*found, strict=True):
        # Sums of n products of size 1 have an error of n·2⁻²⁴ at worst, usually far less.
        atol = 1e-5 + 2e-7 * x.numel() ** 0.5
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(3, 33), (70, 100), (5, 64), (37, 1)])
def test_16_bit_types_keep_column_order(rows, width, dtype):
    x, weight, bias = torch.randn(rows, width), torch.rand(width), torch.rand(width)
    grad = torch.randn(rows, width)
    given = [t.to(dtype).requires_grad_() for t in (x, ONE, weight, bias)]
    exact = [t.detach().double().requires_grad_() for t in given]
    y = dyt(*given, backend="cpu")
    expected = dyt(*exact, backend="reference")
    found = torch.autograd.grad(y, given, grad.to(dtype))
    right = torch.autograd.grad(expected, exact, grad.to(dtype).double())
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2**-8)
    for got, exact_one in zip(found, right, strict=True):
        torch.testing.assert_close(got.double(), exact_one, rtol=2**-8, atol=2**-7)


def test_streaming_stores_give_same_results():
    """Results larger than the caches bypass them if rows are whole cache lines."""
    for dtype, rows in ((torch.float32, 2**17 + 3), (torch.bfloat16, 2**18 + 3)):
        x = torch.randn(rows, 64, dtype=dtype)
        weight, bias = torch.rand(64, dtype=dtype), torch.rand(64, dtype=dtype)
        y = dyt(x, ONE.to(dtype), weight, bias, backend="cpu")
        parts = [dyt(p, ONE.to(dtype), weight, bias, backend="cpu") for p in x.chunk(8)]
        assert torch.equal(y, torch.cat(parts))


@pytest.mark.parametrize("width", [1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 100, 257])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_widths_not_multiple_of_vector(width, rows):
    compare(torch.randn(rows, width), (width,))


@pytest.mark.parametrize("inner", [(1,), (2,), (5, 7), (64,), (33, 40), (70, 70)])
def test_channels_first(inner):
    compare(torch.randn(3, 5, *inner), (5,), axis=1)


def test_channels_first_without_spatial_axes_and_without_parameters():
    compare(torch.randn(3, 5), (5,), axis=1)
    compare(torch.randn(3, 5, 2), None, axis=1)


def test_trailing_sizes_and_more_rows_than_blocks():
    compare(torch.randn(4, 3, 5), (3, 5))
    compare(torch.randn(5000, 9), (9,))


@pytest.mark.parametrize(
    ("x", "axis"),
    [
        (torch.randn(8, 6).t(), -1),
        (torch.randn(6, 16)[:, ::2], -1),
        (torch.randn(6, 9)[:, 1:], -1),  # not aligned
        (torch.randn(1, 8).expand(6, 8), -1),
        (torch.randn(2, 4, 4, 8).permute(0, 3, 1, 2), 1),  # torch.channels_last
        (torch.randn(4, 8, 2, 4).transpose(0, 2), 1),
    ],
)
def test_strided_input(x, axis):
    compare(x, (8,), axis)


def test_channels_last_memory_format_is_kept():
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    y = dyt(x, ONE, torch.ones(8), channel_axis=1, backend="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("sizes", "axis"), [((0, 4), -1), ((2, 0, 4), -1), ((0, 4, 3), 1)])
def test_cpu_kernel_accepts_empty_input(sizes, axis):
    x = torch.empty(sizes, requires_grad=True)
    given = [torch.ones(n, requires_grad=True) for n in (1, 4, 4)]
    y = dyt(x, *given, channel_axis=axis, backend="cpu")
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert all(t.grad.count_nonzero() == 0 for t in given)


def test_one_and_zero_dimensional_input():
    compare(torch.randn(70), None)
    assert dyt(torch.tensor(0.5), ONE).item() == pytest.approx(0.46211716)


def test_weight_or_bias_alone():
    x, weight = torch.randn(3, 40), torch.rand(40)
    y = torch.tanh(x)
    torch.testing.assert_close(dyt(x, ONE, weight, backend="cpu"), weight * y)
    torch.testing.assert_close(dyt(x, ONE, None, weight, backend="cpu"), y + weight)


@pytest.mark.parametrize("axis", [-1, 1])
def test_gradients_bit_identical_for_any_thread_count(axis):
    sizes, width = ((1500, 200), 200) if axis == -1 else ((20, 6, 60, 60), 6)
    x, grad = torch.randn(sizes), torch.randn(sizes)
    given = [
        t.requires_grad_() for t in (x, torch.tensor([0.7]), torch.rand(width), torch.rand(width))
    ]

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        y = dyt(*given, channel_axis=axis, backend="cpu")
        return [y, *torch.autograd.grad(y, given, grad)]

    try:
        first, *others = [run(threads) for threads in (1, 1, 2, 2)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_long_sums_stay_accurate():
    x = torch.ones(200_000, 4)
    given = [t.requires_grad_() for t in (torch.tensor([0.5]), torch.ones(4), torch.zeros(4))]
    dyt(x, *given, backend="cpu").sum().backward()
    slope = 1 - torch.tanh(torch.tensor(0.5, dtype=torch.float64)) ** 2
    assert given[2].grad.tolist() == [200_000] * 4
    assert given[0].grad.item() == pytest.approx(800_000 * slope.item(), rel=1e-6)


CHECK = """
import sys
sys.path.insert(0, {folder!r})
import torch
import test_cpu_kernel as tests
torch.manual_seed(0)
print(torch.backends.cpu.get_cpu_capability())
for name in tests.FUNCTIONS:
    tests.test_infinities_zeros_and_nan(torch.float32, False, name)
    tests.test_16_bit_types_for_every_number(name, torch.float16, False)
    tests.test_16_bit_types_for_every_number(name, torch.bfloat16, False)
    tests.test_16_bit_types_for_every_number(name, torch.bfloat16, True)
    tests.test_float32_error_bound_and_odd_symmetry(name, False)
tests.test_monotone_at_clamp_and_at_most_one("tanh", 8.5, 9.6)
tests.test_streaming_stores_give_same_results()
tests.compare(torch.randn(70, 100), (100,))
tests.compare(torch.randn(3, 5, 70), (5,), 1)
"""


def test_default_and_avx2_instruction_sets():
    from ..processes import run_code  # CHECK imports this file, and not as a part of a package

    check = CHECK.format(folder=str(Path(__file__).parent))
    for capability in ("default", "avx2"):
        out = run_code(check, ATEN_CPU_CAPABILITY=capability)
        # The machine may support less. Older versions of torch name the default "NO AVX".
        assert out.strip().lower() in (capability, "default", "no avx")
