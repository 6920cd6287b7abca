"""Tests of DyT as a function: all backends agree, and the operator supports torch's tools."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.library import opcheck

from dyt.backends import cpu, triton
from dyt.backends.reference import gradients
from dyt.functional import derf, dyt

from ..processes import run_code

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
BACKENDS = ("reference", "cpu")  # available on every test machine
FUNCTIONS = {"tanh": dyt, "erf": derf}
LAYOUTS = {  # sizes of x, of γ and β, and the channel axis
    "last": ((3, 5, 7), (7,), -1),
    "trailing": ((3, 5, 7), (5, 7), -1),
    "wide": ((9, 100), (100,), -1),
    "first": ((2, 7, 5, 3), (7,), 1),
    "plane": ((2, 3, 70), (3,), 1),
    "none": ((4, 6), None, -1),
}


def case(layout: str = "last", x_type=torch.float32, type=None, name="tanh") -> tuple[list, int]:
    """Return random x, α, s (for erf), γ and β that require gradients, and the channel axis."""
    sizes, width, axis = LAYOUTS[layout]
    type = type or x_type
    x = 2 * torch.randn(sizes)
    scalars = (
        [torch.tensor([0.7])] if name == "tanh" else [torch.tensor([0.7]), torch.tensor([0.2])]
    )
    weight, bias = (
        (None, None) if width is None else (1 + 0.3 * torch.randn(width), torch.randn(width))
    )
    parameters = (*scalars, weight, bias)
    tensors = [x.to(x_type), *(None if t is None else t.to(type) for t in parameters)]
    return [None if t is None else t.requires_grad_() for t in tensors], axis


def operands(tensors: list, name: str = "tanh") -> list:
    """Return x, α, s, γ and β as the operator takes them."""
    return tensors if name == "erf" else [*tensors[:2], None, *tensors[2:]]


def given(tensors: list) -> list:
    return [t for t in tensors if t is not None]


def exact(tensors: list, axis: int, grad: Tensor, function=dyt) -> list[Tensor]:
    """Return output and gradients in float64, from the same numbers."""
    wide = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    y = function(*wide, channel_axis=axis, backend="reference")
    return [y.detach(), *torch.autograd.grad(y, given(wide), grad.double())]


# float32: 8 ulp (5e-7) of tanh, and additionally 1 − tanh²; sums of a hundred products of size 1
# to 10. In 16-bit types each result is rounded once (half an ulp: 2⁻⁹ and 2⁻¹²), and in the formula
# every intermediate result; the terms of the sums have that error times their size.
TOLERANCE = {
    ("cpu", torch.float32): (2e-6, 1e-5),
    ("cpu", torch.bfloat16): (2**-8, 1e-3),
    ("cpu", torch.float16): (2**-11, 2e-4),
    ("reference", torch.float32): (2e-6, 1e-5),
    ("reference", torch.bfloat16): (2**-5, 0.3),
    ("reference", torch.float16): (2**-8, 0.04),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("backend", "dtype"), TOLERANCE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_output_and_gradients_match_float64(name, backend, dtype, layout):
    tensors, axis = case(layout, dtype, name=name)
    y = FUNCTIONS[name](*tensors, channel_axis=axis, backend=backend)
    grad = torch.randn(y.shape).to(dtype)
    found = [y, *torch.autograd.grad(y, given(tensors), grad)]
    rtol, atol = TOLERANCE[backend, dtype]
    for value, expected in zip(found, exact(tensors, axis, grad, FUNCTIONS[name]), strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.detach().double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("layout", ["last", "first", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_reference_gradients_match_finite_differences(name, layout):
    tensors, axis = case(layout, torch.float64, name=name)

    def reference(*tensors):
        return FUNCTIONS[name](*tensors, channel_axis=axis, backend="reference")

    assert torch.autograd.gradcheck(reference, tensors)
    expected = torch.autograd.grad(reference(*tensors).sum(), given(tensors))
    found = gradients(torch.ones_like(tensors[0]), *operands(tensors, name), name, axis)
    for got, right in zip([f for f in found if f.numel()], expected, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("type", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_kernel_dtype_equals_formula_dtype(x_type, type, autocast):
    tensors, _ = case("last", x_type, type)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        kernel = dyt(*tensors, backend="cpu")
        plain = dyt(*tensors, backend="reference")
    assert kernel.dtype == plain.dtype == torch.promote_types(x_type, type)
    torch.testing.assert_close(kernel, plain, rtol=2**-6, atol=2**-4)
    kernel.sum().backward()
    assert [t.grad.dtype for t in tensors] == [t.dtype for t in tensors]


def test_zero_dimensional_alpha_does_not_widen_dtype():
    x, alpha = torch.randn(2, 3, dtype=torch.bfloat16), torch.tensor(0.5)
    assert dyt(x, alpha, backend="cpu").dtype == dyt(x, alpha, backend="reference").dtype
    assert dyt(x, alpha).dtype == torch.bfloat16
    assert dyt(x, alpha.view(1, 1, 1)).shape == x.shape


def test_float64_uses_formula():
    tensors, _ = case("last", torch.float64)
    assert torch.equal(dyt(*tensors, backend="cpu"), dyt(*tensors, backend="reference"))


@pytest.mark.parametrize("position", [1, 2, 3], ids=["alpha", "weight", "bias"])
def test_one_parameter_in_float64_uses_formula(position):
    tensors, _ = case("last")
    tensors[position] = tensors[position].double()
    y = dyt(*tensors, backend="cpu")
    assert y.dtype == torch.float64
    assert torch.equal(y, dyt(*tensors, backend="reference"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernel_saves_only_inputs_for_backward(name):
    tensors, _ = case("wide", name=name)
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t.data_ptr()), lambda t: t):
        FUNCTIONS[name](*tensors, backend="cpu")
    assert sorted(kept) == sorted(t.data_ptr() for t in tensors)


@pytest.mark.parametrize("layout", ["last", "first", "none"])
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operator_passes_opcheck(name, layout, x_type):
    tensors, axis = case(layout, x_type, torch.float32, name)
    tensors = operands(tensors, name)
    opcheck(torch.ops.dyt.dyt.default, (*tensors, name, axis, False))
    detached = [None if t is None else t.detach() for t in tensors]
    grad = torch.randn(tensors[0].shape)
    opcheck(torch.ops.dyt.dyt_backward.default, (grad, *detached, name, axis, False))


class Layer(nn.Module):
    def __init__(self, width: int = 7, **options) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.7))
        self.weight = nn.Parameter(torch.rand(width))
        self.bias = nn.Parameter(torch.rand(width))
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return dyt(x, self.alpha, self.weight, self.bias, **self.options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dyt_compiles_as_one_graph_and_trains(backend):
    layer, x = Layer(backend=backend), torch.randn(3, 5, 7, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = (x, *layer.parameters())
    plain, traced = layer(x), compiled(x)
    torch.testing.assert_close(traced, plain)
    for got, expected in zip(
        torch.autograd.grad(traced.square().sum(), inputs),
        torch.autograd.grad(plain.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.slow
def test_dyt_under_inductor():
    layer, x = Layer(), torch.randn(3, 5, 7)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


def test_torch_export_contains_dyt_operator():
    layer, x = Layer(), torch.randn(3, 5, 7)
    program = torch.export.export(layer, (x,))
    assert torch.ops.dyt.dyt.default in [node.target for node in program.graph.nodes]
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("layout", ["last", "first"])
def test_meta_tensors(layout):
    tensors, axis = case(layout, torch.bfloat16, torch.float32)
    meta = [t.detach().to("meta").requires_grad_() for t in tensors]
    y = dyt(*meta, channel_axis=axis)
    assert y.is_meta and y.shape == meta[0].shape and y.dtype == torch.float32
    y.sum().backward()
    assert [t.grad.shape for t in meta] == [t.shape for t in meta]


@pytest.mark.parametrize("batched", [(0, None, None, None), (1, None, 0, None), (0, 0, 0, 0)])
def test_vmap(batched):
    (x, alpha, weight, bias), _ = case("last")
    x = torch.stack([x, 2 * x], batched[0])
    parameters = [
        p if axis is None else torch.stack([p, 3 * p])
        for p, axis in zip((alpha, weight, bias), batched[1:], strict=True)
    ]
    found = torch.vmap(dyt, batched)(x, *parameters)
    for i in range(2):
        one = [p if axis is None else p[i] for p, axis in zip(parameters, batched[1:], strict=True)]
        torch.testing.assert_close(found[i], dyt(x.select(batched[0], i), *one))


def test_per_sample_gradients_by_vmap():
    (x, *parameters), _ = case("last")
    parameters = [p.detach() for p in parameters]

    def loss(parameters, x):
        return dyt(x, *parameters).square().sum()

    found = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x.detach())
    for i, one in enumerate(x.detach()):
        for got, expected in zip(found, torch.func.grad(loss)(parameters, one), strict=True):
            torch.testing.assert_close(got[i], expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_equal_formula(name):
    tensors, axis = case("last", name=name)
    found = []
    for backend in BACKENDS:
        y = FUNCTIONS[name](*tensors, channel_axis=axis, backend=backend)
        (dx,) = torch.autograd.grad(y.square().sum(), tensors[:1], create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), tensors))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_third_derivatives_equal_formula(name):
    """The loss has third derivatives even if the operator has none, so no error would be raised."""
    tensors, axis = case("last", name=name)
    found = []
    for backend in BACKENDS:
        y = FUNCTIONS[name](*tensors, channel_axis=axis, backend=backend)
        (first,) = torch.autograd.grad(y.square().sum(), tensors[:1], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), tensors[:1], create_graph=True)
        found.append(torch.autograd.grad((second * y).sum(), tensors))
    for kernel, plain in zip(*found, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=1e-4, atol=1e-3)


def test_forward_mode_differentiation():
    (x, *parameters), _ = case("last")
    with forward_ad.dual_level():
        y = dyt(forward_ad.make_dual(x, torch.ones_like(x)), *parameters, backend="cpu")
        found = forward_ad.unpack_dual(y).tangent
    expected = torch.autograd.grad(dyt(x, *parameters).sum(), x)  # the Jacobian is diagonal
    torch.testing.assert_close(found, *expected)


@pytest.mark.skipif(
    TORCH < (2, 5), reason="torch 2.4 multiplies nested tensors by no tensor with one element"
)
def test_nested_and_sparse_tensors():
    rows = [torch.randn(3, 7), torch.randn(5, 7)]
    alpha, weight = torch.tensor([0.7]), torch.rand(7)
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    for found, row in zip(dyt(nested, alpha, weight).unbind(), rows, strict=True):
        torch.testing.assert_close(found, dyt(row, alpha, weight))
    eye = torch.eye(4)
    torch.testing.assert_close(dyt(eye.to_sparse(), alpha).to_dense(), dyt(eye, alpha))


X, ONE, C3 = torch.randn(2, 3), torch.ones(1), torch.ones(3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X.int(), ONE), {}, "x has dtype torch.int32, but DyT takes real floating-point"),
        ((X + 0j, ONE), {}, "x has dtype torch.complex64"),
        ((X, ONE.int()), {}, "alpha has dtype torch.int32"),
        ((X, ONE, C3.bool()), {}, "weight has dtype torch.bool"),
        ((X, C3), {}, r"alpha has 3 elements and shape \(3,\), but α is a single number"),
        ((X, torch.ones(0)), {}, "alpha has 0 elements"),
        (
            (X, ONE, torch.ones(2)),
            {},
            r"weight has shape \(2,\), which does not match the channels \(last\)",
        ),
        ((X, ONE, ONE), {}, r"weight has shape \(1,\)"),
        ((X, ONE, None, torch.ones(4)), {}, r"bias has shape \(4,\)"),
        ((X, ONE, torch.ones(1, 2, 3)), {}, r"weight has shape \(1, 2, 3\)"),
        ((X, ONE, torch.tensor(1.0)), {}, r"weight has shape \(\)"),
        (
            (X, ONE, torch.ones(2)),
            {"channel_axis": 1},
            r"does not match the channels \(at axis 1\)",
        ),
        ((C3, ONE, C3), {"channel_axis": 1}, r"does not match the channels \(at axis 1\)"),
        ((X, ONE.to("meta")), {}, "alpha is on meta, but x is on cpu"),
        ((X, ONE, C3.to("meta")), {}, "weight is on meta"),
        ((X, ONE, C3, C3.to("meta")), {}, "bias is on meta"),
        ((X, ONE), {"channel_axis": 2}, "channel_axis = 2 is not supported"),
    ],
)
def test_invalid_tensors_are_rejected(arguments, options, message, backend):
    with pytest.raises(ValueError, match=message):
        dyt(*arguments, **options, backend=backend)


def test_unknown_or_unavailable_backend_is_rejected(monkeypatch):
    with pytest.raises(ValueError, match="backend = 'gpu' is unknown"):
        dyt(X, ONE, backend="gpu")
    monkeypatch.setattr(triton, "PROBLEM", None)
    with pytest.raises(ValueError, match=r"'triton' cannot run: x is on 'cpu'. Move .* CUDA"):
        dyt(X, ONE, backend="triton")
    monkeypatch.setattr(triton, "PROBLEM", "no CUDA device was found")
    with pytest.raises(ValueError, match=r"'triton' cannot run: no CUDA device .* NVIDIA GPU"):
        dyt(X, ONE, backend="triton")
    monkeypatch.setattr(cpu, "PROBLEM", "it was not built when dyt was installed")
    with pytest.raises(ValueError, match=r"'cpu' cannot run: .* not built .* C\+\+ compiler"):
        dyt(X, ONE, backend="cpu")
    assert torch.equal(dyt(X, ONE, C3), dyt(X, ONE, C3, backend="reference"))


SCRIPT = """
import torch
from dyt import Derf, DyT
torch.manual_seed(0)
for layer in (DyT(24), Derf(24, shift0=0.1), DyT(3, channel_axis=1)):
    x = torch.randn(2, 3, 24, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    plain = layer.double()(x.double())
    torch.testing.assert_close(y.double(), plain, rtol=1e-5, atol=1e-6)
    found = x.grad
    x.grad = None
    plain.square().sum().backward()
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-5)
from dyt.backends import cpu, triton_choice
from dyt.functional import dyt
assert triton_choice._kernels.cache_info().currsize == 1
try:
    dyt(x, torch.ones(1), backend="cpu")
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(TORCH < (2, 8), reason="needs Triton 3.4, which comes with torch 2.8")
def test_layers_use_gpu_kernel_under_triton_interpreter():
    """Covers the code around the kernels that runs on a GPU: choice, operator, autograd, layers."""
    found = run_code(SCRIPT, DYT_BACKEND="triton", TRITON_INTERPRET="1")
    assert "backend = 'cpu' cannot run: DYT_BACKEND=triton" in found
