"""Tests of the choice of backend and accuracy: arguments, environment variables, memory formats."""

import importlib.util
import sys
import warnings
from types import ModuleType

import pytest
import torch

from dyt import Derf, DyT, functional
from dyt.backends import cpu, triton_launch
from dyt.functional import derf, dyt

FUNCTIONS = {"tanh": dyt, "erf": derf}
ONE = torch.ones(1)


def fresh(module: ModuleType) -> ModuleType:
    """Return a second copy of a module, executed as on its first import."""
    spec = importlib.util.spec_from_file_location("fresh", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_dyt_backend_environment_variable(monkeypatch):
    x = torch.randn(2, 3, requires_grad=True)
    assert "Tanh" not in type(fresh(functional).dyt(x, ONE).grad_fn).__name__
    monkeypatch.setenv("DYT_BACKEND", "reference")
    assert "Tanh" in type(fresh(functional).dyt(x, ONE).grad_fn).__name__
    monkeypatch.setenv("DYT_BACKEND", "gpu")
    with pytest.raises(ValueError, match="backend = 'gpu' is unknown"):
        fresh(functional).dyt(x, ONE)


def test_dyt_accurate_environment_variable(monkeypatch):
    x = torch.linspace(-5, 5, 1000)
    monkeypatch.setenv("DYT_ACCURATE", "1")
    accurate = fresh(functional).dyt(x, ONE)
    assert torch.equal(accurate, dyt(x, ONE, accurate=True))
    assert not torch.equal(accurate, dyt(x, ONE, accurate=False))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_take_precedence_over_the_environment(monkeypatch, name):
    x = torch.linspace(-5, 5, 1000)
    monkeypatch.setenv("DYT_ACCURATE", "1")
    monkeypatch.setenv("DYT_BACKEND", "reference")
    function = FUNCTIONS[name]
    other = getattr(fresh(functional), function.__name__)
    for backend, accurate in (("cpu", False), ("cpu", True), ("reference", False)):
        expected = function(x, ONE, backend=backend, accurate=accurate)
        assert torch.equal(other(x, ONE, backend=backend, accurate=accurate), expected)
    monkeypatch.setenv("DYT_ACCURATE", "0")
    monkeypatch.delenv("DYT_BACKEND")
    other = getattr(fresh(functional), function.__name__)
    assert torch.equal(other(x, ONE), function(x, ONE, accurate=False))
    assert torch.equal(other(x, ONE, accurate=True), function(x, ONE, accurate=True))
    fast, accurate = (function(x, ONE, accurate=value) for value in (False, True))
    assert not torch.equal(fast, accurate)


@pytest.mark.parametrize("accurate", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_channels_last_memory_is_computed_as_channels_last(name, accurate):
    x = torch.randn(2, 8, 5, 7).to(memory_format=torch.channels_last)
    function, weight = FUNCTIONS[name], torch.rand(8)
    found = function(x, ONE, weight=weight, channel_axis=1, backend="cpu", accurate=accurate)
    expected = function(
        x.movedim(1, -1), ONE, weight=weight, backend="cpu", accurate=accurate
    ).movedim(-1, 1)
    assert torch.equal(found, expected) and found.stride() == x.stride()
    other = function(x, ONE, weight=weight, channel_axis=1, backend="cpu", accurate=not accurate)
    assert not torch.equal(found, other)


@pytest.mark.parametrize(
    ("backend", "accurate", "expected"),
    [
        (None, None, (None, False)),
        ("", "", (None, False)),
        ("cpu", "0", ("cpu", False)),
        ("reference", "1", ("reference", True)),
        ("triton", "yes", ("triton", True)),
    ],
)
def test_environment_variables_are_defaults(monkeypatch, backend, accurate, expected):
    for name, value in (("DYT_BACKEND", backend), ("DYT_ACCURATE", accurate)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    copy = fresh(functional)
    assert expected == (copy._DEFAULT_BACKEND, copy._DEFAULT_ACCURATE)


@pytest.mark.parametrize(
    ("layer", "dtype", "formula"),
    [
        *((DyT(None, affine=False), dtype, None) for dtype in cpu.DTYPES),
        (DyT(None, affine=False), torch.float64, "Tanh"),
        (DyT(None, affine=False, alpha="fixed"), torch.float32, None),
        (DyT(None, affine=False, alpha="absent"), torch.float32, "Tanh"),
        (DyT(None, affine=False, squash="erf"), torch.bfloat16, None),
        (Derf(None, affine=False), torch.float16, None),
        (DyT(None, affine=False, squash="sigmoid"), torch.float32, "Sigmoid"),
    ],
    ids=str,
)
def test_kernel_computes_tanh_and_erf_in_three_dtypes(layer, dtype, formula):
    y = layer.to(dtype)(torch.ones(2, 3, dtype=dtype, requires_grad=True))
    assert y.dtype == dtype
    plain = [name for name in ("Tanh", "Erf", "Sigmoid") if name in type(y.grad_fn).__name__]
    assert plain == ([] if formula is None else [formula])


def test_kernels_support_three_dtypes():
    three = (torch.float32, torch.bfloat16, torch.float16)
    assert cpu.DTYPES == triton_launch.DTYPES == three


def test_scalar_input_is_computed_by_the_formula():
    x = torch.tensor(0.3, requires_grad=True)
    y = dyt(x, torch.tensor(2.0), backend="cpu")
    assert "Tanh" in type(y.grad_fn).__name__ and y.ndim == 0


def test_derf_checks_its_shift():
    x = torch.ones(2, 3)
    for shift, message in (
        (torch.ones(2), r"shift has 2 elements and shape \(2,\), but s is a single number"),
        (torch.ones(1, dtype=torch.int32), "shift has dtype torch.int32"),
        (torch.ones(1, device="meta"), "shift is on meta, but x is on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            derf(x, ONE, shift)
    assert derf(x, ONE, torch.ones(1, 1)).shape == (2, 3)


@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_missing_kernel_of_the_cpu_alone_is_a_warning(monkeypatch, kernel):
    monkeypatch.setattr(functional, "_KERNEL_OF_DEVICE", {"cpu": kernel})
    monkeypatch.setattr(functional._KERNEL_MODULES[kernel], "PROBLEM", "it was not built")
    functional._warn_without_cpu_kernel.cache_clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            dyt(torch.ones(2), ONE)
    functional._warn_without_cpu_kernel.cache_clear()
    assert [str(warning.message) for warning in warned] == (
        [
            "DyT runs on the CPU without its kernel, several times slower: it was not built."
            " Run `python -m dyt build` in the environment that has torch; it needs a C++ compiler."
            " DYT_BACKEND=reference silences this warning."
        ]
        if kernel == "cpu"
        else []
    )


def test_missing_cpu_kernel_prints_nothing(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "_dyt_cpu_2", None)
    assert fresh(cpu).PROBLEM == "it was not built when dyt was installed"
    assert capfd.readouterr() == ("", "")
