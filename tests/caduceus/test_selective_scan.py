"""Tests of the selective scan: mamba's reference formula, gradients, kernels, and their choice."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from dyt_caduceus import selective_scan as interface
from dyt_caduceus.scan_backends import mamba_kernels, torch_loop, triton_scan
from dyt_caduceus.selective_scan import choose_scan, record_scan, selective_scan
from matched.task import Context

from ..messages import refused

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def problem(batch=2, channels=3, states=4, length=70, dtype=torch.float32, seed=0):
    """Return the arguments of a scan with decays between 0 and 1, some of them near 0."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = (
        normal(batch, channels, length),
        normal(batch, channels, length),
        -normal(channels, states).exp() * torch.arange(1, states + 1),
        normal(batch, states, length),
        normal(batch, states, length),
        normal(channels),
        normal(batch, channels, length),
        normal(channels) - 1,
    )
    return [t.to(dtype).requires_grad_() for t in tensors]


def reference(u, delta, A, B, C, D, z, delta_bias):
    """Compute the formula of Gu and Dao 2023, step by step."""
    delta = F.softplus(delta + delta_bias[:, None])
    state = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * B[:, None, :, t] * u[:, :, t, None]
        outputs.append((state * C[:, None, :, t]).sum(2))
    return (torch.stack(outputs, 2) + D[:, None] * u) * F.silu(z)


def run(function, arguments):
    """Return the output and all gradients, for a gradient of the output that varies."""
    y = function(*arguments)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), arguments)]


def compare_with_reference(function, tolerance=1e-5, **sizes):
    exact = run(reference, problem(**sizes, dtype=torch.float64))
    found = run(function, problem(**sizes))
    assert_close(found, exact, tolerance)


def assert_close(found, exact, tolerance=1e-5):
    for name, mine, right in zip(("y", *NAMES), found, exact, strict=True):
        assert (mine - right).abs().max() <= tolerance * right.abs().max(), name


CHUNK = torch_loop.CHUNK
LENGTHS = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)


@pytest.mark.parametrize("length", LENGTHS)
def test_torch_scan_equals_reference_formula_and_gradients(length):
    compare_with_reference(selective_scan, length=length)


def test_torch_scan_of_a_long_sequence_equals_reference():
    compare_with_reference(selective_scan, batch=1, channels=2, states=16, length=1500)


def test_torch_scan_in_parts_of_the_batch_equals_reference(monkeypatch):
    monkeypatch.setattr(torch_loop, "CACHED", 30)  # two samples of 12 states
    compare_with_reference(selective_scan, batch=5)


def test_torch_scan_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(torch_loop, "CHUNK", 3)
    arguments = problem(batch=2, channels=2, states=2, length=7, dtype=torch.float64)
    assert torch.autograd.gradcheck(selective_scan, arguments)


def test_torch_scan_with_strong_decay_is_finite():
    arguments = problem()
    with torch.no_grad():
        arguments[1].add_(100)  # exp(δA) underflows to 0
    assert all(t.isfinite().all() for t in run(selective_scan, arguments))


def test_torch_scan_refuses_a_second_derivative():
    arguments = problem(length=4)
    (grad,) = torch.autograd.grad(selective_scan(*arguments).sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_selective_scan_computes_in_float32_under_autocast():
    arguments = problem()
    half = [t.detach().bfloat16().requires_grad_() if t.ndim == 3 else t for t in arguments]
    rounded = [t.detach().float().requires_grad_() for t in half]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(selective_scan, half)
    exact = run(selective_scan, rounded)
    assert found[0].dtype == torch.bfloat16
    for mine, right in zip(found, exact, strict=True):
        # One rounding of the output, and of its gradient.
        assert (mine - right).abs().max() <= 2**-6 * right.abs().max()


def saved_elements(length):
    """Return the number of elements that autograd keeps for a scan."""
    kept = {}
    pack = lambda tensor: kept.setdefault(tensor.data_ptr(), tensor)  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*problem(batch=1, channels=8, states=16, length=length))
    return sum(tensor.numel() for tensor in kept.values())


def test_torch_scan_keeps_no_states_of_every_step():
    length = 10 * CHUNK
    assert saved_elements(length) < 16 * 8 * length
    assert saved_elements(2 * length) == pytest.approx(2 * saved_elements(length), rel=0.01)


# Triton chooses the interpreter when it is imported, so a separate process runs the kernels.
INTERPRETED = """
import sys, torch
from dyt_caduceus.scan_backends import triton_scan
from dyt_caduceus.selective_scan import selective_scan
results = {}
for case, (chunk, arguments) in torch.load(sys.argv[1]).items():
    triton_scan.CHUNK = chunk
    y = selective_scan(*arguments, scan="triton")
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    results[case] = [y.detach(), *torch.autograd.grad((y * weights).sum(), arguments)]
torch.save(results, sys.argv[2])
"""
TRITON_CASES = {
    "one step": (8, {"length": 1}),
    "one chunk": (8, {"length": 8}),
    "parts of a chunk": (8, {"length": 19, "channels": 2}),
    "states not a power of two": (4, {"length": 9, "states": 5}),
    "chunk as on a GPU": (64, {"length": 70, "batch": 1, "channels": 1, "states": 2}),
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Results of all cases, computed by Triton's interpreter."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("triton")
    cases = {case: (chunk, problem(**sizes)) for case, (chunk, sizes) in TRITON_CASES.items()}
    torch.save(cases, folder / "cases.pt")
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(
        [sys.executable, "-c", INTERPRETED, folder / "cases.pt", folder / "results.pt"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        check=True,
    )
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("case", TRITON_CASES)
def test_triton_scan_in_the_interpreter_equals_reference(interpreted, case):
    sizes = TRITON_CASES[case][1]
    assert_close(interpreted[case], run(reference, problem(**sizes, dtype=torch.float64)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_scan_on_a_gpu_equals_reference():
    def on_gpu(*arguments):
        return selective_scan(*(t.cuda() for t in arguments), scan="triton").cpu()

    compare_with_reference(on_gpu, batch=2, channels=5, states=16, length=1000)


def test_triton_kernels_compile_for_an_h100(tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    u, A = torch.empty(2, 236, 1024, device="meta"), torch.empty(236, 16, device="meta")
    constants = triton_scan._sizes(u, A)
    for name in ("forward", "backward_ends", "backward"):
        kernel = getattr(triton_scan._kernels(), name)
        signature = {a: "constexpr" if a in constants else "*fp32" for a in kernel.arg_names}
        values = {(kernel.arg_names.index(a),): value for a, value in constants.items()}
        source = ASTSource(kernel, signature, values)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]
        assert "shfl" in compiled.asm["ptx"]  # the scan runs over threads, not in one


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU and a torch for it, without mamba-ssm, to choose a scan."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton_scan, "problem", lambda: None)
    monkeypatch.setattr(mamba_kernels, "installed", lambda: False)
    monkeypatch.delenv("DYT_SCAN", raising=False)
    caches = (interface._choose, mamba_kernels.problem)
    for cached in caches:
        cached.cache_clear()
    yield monkeypatch
    for cached in caches:
        cached.cache_clear()


def test_choose_scan_takes_torch_on_the_cpu(monkeypatch):
    assert choose_scan("cpu") == "torch"
    for scan in ("auto", "torch"):
        monkeypatch.setenv("DYT_SCAN", scan)
        assert choose_scan("cpu") == "torch"
        assert choose_scan("cpu", scan) == "torch"


def test_choose_scan_takes_triton_on_a_gpu_and_names_the_commands(gpu, caplog):
    assert choose_scan("cuda") == "triton"
    assert caplog.messages == [
        "the selective scan uses this package's Triton kernels; "
        f"`{mamba_kernels.COMMAND}` installs mamba-ssm's"
    ]
    caplog.clear()
    assert choose_scan("cuda", "triton") == "triton"
    assert not caplog.messages


def test_choose_scan_refuses_the_plain_scan_on_a_gpu_unless_asked(gpu, caplog):
    gpu.setattr(triton_scan, "problem", lambda: "Triton is not installed")
    message = (
        "no kernel for the selective scan: Triton is not installed, and mamba-ssm is not in use; "
        f"install it with `{mamba_kernels.COMMAND}`, or set DYT_SCAN=torch for the many times "
        "slower plain scan"
    )
    for scan in ("auto", "triton"):
        assert refused(choose_scan, "cuda", scan) == message
    assert not caplog.messages
    gpu.setenv("DYT_SCAN", "torch")
    assert choose_scan("cuda") == "torch"
    assert caplog.messages == [
        "the selective scan runs in plain PyTorch on a GPU, as DYT_SCAN=torch asks"
    ]


@pytest.mark.parametrize(
    ("module", "cuda", "problem"),
    [
        (None, "13.0", "Triton is not installed"),
        ("triton", None, "torch was built without CUDA"),
        ("triton", "13.0", None),
    ],
)
def test_triton_needs_its_package_and_cuda(monkeypatch, module, cuda, problem):
    monkeypatch.setattr(triton_scan, "find_spec", {module: object()}.get)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert triton_scan.problem.__wrapped__() == problem


def test_triton_runs_on_the_cpu_in_its_interpreter_alone(monkeypatch):
    for value, interpreted in (("0", False), ("1", True)):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        assert triton_scan.interpreted() == interpreted
    interface._choose.cache_clear()
    assert choose_scan("cpu", "triton") == "triton"
    interface._choose.cache_clear()


def install_mamba(monkeypatch, folder, kernels=None):
    """Make a package mamba_ssm importable, and a module with its kernels if there is a content."""
    monkeypatch.delitem(sys.modules, "selective_scan_cuda", raising=False)
    (folder / "mamba_ssm.py").write_text("raise ImportError('nothing imports this package')")
    if kernels is not None:
        (folder / "selective_scan_cuda.py").write_text(kernels)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(mamba_kernels, "installed", lambda: True)


BROKEN = {
    "raise ImportError('selective_scan_cuda.so: undefined symbol:\\n  _ZN3c10')": (
        r"mamba-ssm is installed but broken \(ImportError: selective_scan_cuda.so: undefined "
        r"symbol: _ZN3c10\); install it again with `.*`, or set DYT_SCAN=triton"
    ),
    None: "installed without its kernel selective_scan_cuda; install it again",
}


@pytest.mark.parametrize("kernels", BROKEN, ids=["undefined symbol", "no kernel"])
def test_choose_scan_names_the_fault_of_a_broken_mamba_ssm(gpu, tmp_path, kernels):
    install_mamba(gpu, tmp_path, kernels)
    with pytest.raises(ValueError, match=BROKEN[kernels]) as error:
        choose_scan("cuda")
    assert "\n" not in str(error.value)
    assert choose_scan("cuda", "triton") == "triton"


def test_fault_of_a_broken_mamba_ssm_has_300_characters(gpu, tmp_path):
    install_mamba(gpu, tmp_path, "raise OSError('x' * 400)")
    fault = f"mamba-ssm is installed but broken (OSError: {'x' * 291})"
    assert mamba_kernels.problem() == fault


def test_choose_scan_reports_mamba_ssm_that_is_missing(gpu):
    assert refused(choose_scan, "cuda", "mamba-ssm") == (
        f"mamba-ssm is not installed; install it again with `{mamba_kernels.COMMAND}`, or set "
        "DYT_SCAN=triton"
    )


class Kernels:
    """A stand-in for selective_scan_cuda, with its arguments and results."""

    @staticmethod
    def fwd(u, delta, A, B, C, D, z, delta_bias, softplus):
        assert softplus and B.shape[1] == C.shape[1] == 1
        assert all(t.is_contiguous() for t in (u, delta, A, D, z, delta_bias))
        gated = reference(u, delta, A, B[:, 0], C[:, 0], D, z, delta_bias)
        return torch.zeros(1), torch.ones(1), gated

    @staticmethod
    def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, softplus, recompute):
        assert (x.item(), out.item(), dz, softplus, recompute) == (1, 0, None, True, False)
        arguments = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, z, delta_bias)]
        with torch.enable_grad():
            a, b, c, d, e, f, g, h = arguments
            y = reference(a, b, c, d[:, 0], e[:, 0], f, g, h)
        *grads, dz, dbias = torch.autograd.grad(y, arguments, dout)
        return *grads, dbias, dz


def test_choose_scan_prefers_mamba_ssm_and_calls_its_kernels(gpu, tmp_path):
    install_mamba(gpu, tmp_path, "")
    assert choose_scan("cuda") == "mamba-ssm"
    gpu.setattr(mamba_kernels, "_kernels", lambda: Kernels)
    gpu.setattr(interface, "choose_scan", lambda device, scan: "mamba-ssm")
    compare_with_reference(selective_scan)


def test_mamba_ssm_reads_inputs_of_one_dtype_and_parameters_in_float32(monkeypatch):
    dtypes = []

    class Recorder(Kernels):
        @staticmethod
        def fwd(*arguments):
            dtypes.extend(tensor.dtype for tensor in arguments[:-1])
            return Kernels.fwd(*arguments)

    monkeypatch.setattr(mamba_kernels, "_kernels", lambda: Recorder)
    u, *others = (tensor.detach() for tensor in problem())
    mamba_kernels.scan(u.bfloat16(), *others[:-1], others[-1].double())
    half, wide = torch.bfloat16, torch.float32
    assert dtypes == [half, half, wide, half, half, wide, half, wide]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_choose_scan_refuses_a_gpu_that_is_not_there():
    assert refused(choose_scan, "cuda") == (
        "a GPU was asked for the selective scan, but torch finds none; run on a machine with an "
        "NVIDIA GPU and a CUDA build of torch, or on the CPU"
    )


@pytest.mark.parametrize("scan", ["mamba-ssm", "triton"])
def test_choose_scan_refuses_kernels_of_a_gpu_on_the_cpu(scan, monkeypatch):
    monkeypatch.setenv("DYT_SCAN", scan)
    assert refused(choose_scan, "cpu") == (
        f"DYT_SCAN is {scan}, which needs a GPU, but this run is on 'cpu'; use a machine with an "
        "NVIDIA GPU, or set DYT_SCAN=auto"
    )


def test_choose_scan_refuses_unknown_names():
    assert refused(choose_scan, "cpu", "fast") == (
        "DYT_SCAN is 'fast'; expected auto or one of mamba-ssm, triton, torch"
    )


def test_record_scan_adds_the_choice_to_the_environment(tmp_path, caplog):
    caplog.set_level("INFO", "matched")
    (tmp_path / "environment.json").write_text('{"python": "3.11"}')
    assert record_scan(Context(directory=tmp_path, signature="x"), "cpu") == "torch"
    recorded = json.loads((tmp_path / "environment.json").read_text())
    assert recorded == {"python": "3.11", "selective_scan": "torch"}
    assert caplog.messages == ["selective scan: torch, on cpu"]


@pytest.mark.parametrize("module", ["mamba_ssm", "selective_scan_cuda", None])
def test_mamba_ssm_is_installed_with_either_module(monkeypatch, module):
    """Releases differ: some come without the kernels, and some kernels without the package."""
    found = {module: object()}
    monkeypatch.setattr(mamba_kernels, "find_spec", lambda name: found.get(name))
    assert mamba_kernels.installed() == (module is not None)
