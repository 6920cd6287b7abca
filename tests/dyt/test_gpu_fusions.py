"""Tests of the fused candidates of the GPU benchmark: float64, compilation, code for an H100."""

import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyt.backends import triton_plan

from .ahead_of_time import build, resources

pytest.importorskip("triton")
FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(
    os.environ.get("DYT_TESTS_SKIP_MISSING") == "1",
    reason="register use depends on the version of Triton; the plans are for the locked one",
)
MULTIPROCESSORS = 132
REGISTERS = 2**16  # of a multiprocessor

CHECKS = """
from gpu_sections import fused_checks
rows = [row for part in fused_checks.parts("cpu") for row in part.measure()]
for row in rows:
    print(row["check"], row["outcome"], row["error_over_tolerance"], sep=" | ")
"""
COMPILED = """
import torch
from gpu_sections import fused, latency, llama_block
from gpu_sections.latency import DTYPE, FUSED, SIZES, build

sizes = SIZES["cpu"]
x, normed = torch.randn(2, 1, sizes.tokens, sizes.width).to(DTYPE).unbind()
rotation = llama_block.rotary(sizes, "cpu", DTYPE)
for name in FUSED:
    torch.compiler.reset()
    network = build("cpu", "block", name, "eager")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        pairs = list(zip(compiled(x, normed, rotation), network(x, normed, rotation), strict=True))
    print(name, all(torch.allclose(a, b, rtol=0.02, atol=0.02) for a, b in pairs), sep=" | ")
"""


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a section with its folder on the path, as for a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in list(sys.modules):
        if name.split(".")[0] in ("gpu_sections", "measuring", "layers", "layers_report"):
            sys.modules.pop(name)


def interpreted(script: str) -> list[list[str]]:
    """Run a script in a process with Triton's interpreter; return the fields of its lines."""
    paths = os.pathsep.join([str(FOLDER), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "DYT_BACKEND": "triton"}
    environment |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return [line.split(" | ") for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_gpu_fusions_equal_float64():
    rows = interpreted(CHECKS)
    assert len(rows) == 7
    assert all(outcome == "passed" for _, outcome, _ in rows), rows


@pytest.mark.slow
def test_gpu_fusions_compile_in_a_llama_block():
    rows = interpreted(COMPILED)
    assert len(rows) == 3 and all(equal == "True" for _, equal in rows), rows


@pytest.fixture
def use(load, tmp_path, monkeypatch):
    """Return a function that compiles a kernel: its PTX, and its registers without spills."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = load("gpu_sections.fusion_kernels")

    def compile(name: str, types: dict[str, str], constants: dict, **options) -> tuple[str, int]:
        ptx, code = build(getattr(kernels, name), types, constants, **options)
        used = resources(code, tmp_path)
        assert used["STACK"] == used["LOCAL"] == 0, "registers are spilled"
        return ptx, used["REG"]

    return compile


PARAMETERS = dict.fromkeys(("alpha", "weight", "bias"), "bf16")
ELEMENTWISE = {  # kernel: its division, the types of its tensors, and how many of them it reads
    "add_forward": ("ADD_FORWARD", dict.fromkeys("xyhz", "bf16"), 2),
    "add_backward": (
        "ADD_BACKWARD",
        dict.fromkeys(("grad_h", "grad_z", "h", "dx"), "bf16") | {"sums": "fp32"},
        3,
    ),
    "cast_forward": ("CAST", {"x": "bf16", "y": "fp8e4nv", "scale": "fp32"}, 1),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gpu_elementwise_fusions_compile_without_spills_for_h100(load, use, name):
    attribute, types, tensors = ELEMENTWISE[name]
    division = getattr(load("gpu_sections.fused"), attribute)
    shape, concurrent = (4096, 4096), division.programs * MULTIPROCESSORS
    launch = triton_plan.plan_launch(shape, ((shape[1], 1),), 1, -1, 2, division.steps, concurrent)
    names = ("STEPS", "BLOCK_P", "BLOCK_C", "ALIGNMENT")
    constants = {key: launch.constants[key] for key in names} | {"METHOD": "approximate"}
    constants |= {"BIAS": True} if name == "add_backward" else {}
    ptx, registers = use(name, PARAMETERS | types, constants)
    assert registers * triton_plan.THREADS * division.programs <= REGISTERS
    loads = tensors * division.steps
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) >= loads
    assert len(re.findall(r"st\.global\.v[24]\.b32", ptx)) >= math.ceil(loads / 4)
    assert "tanh.approx.f32" in ptx
    assert ("cvt.rn.satfinite.e4m3x2.f32" in ptx) == (name == "cast_forward")


PRODUCTS = {  # the tensors that a fusion has, and the method of tanh
    "plain": ((), "approximate"),
    "before": (("alpha", "bias"), "approximate"),
    "before, in pairs": (("alpha", "bias"), "pairs"),
    "after": (("alpha", "residual", "weight", "z"), "approximate"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "fusion"),
    [
        *(("LARGE", fusion) for fusion in PRODUCTS),
        *((tile, fusion) for tile in ("SQUARE", "POINTERS") for fusion in ("before", "after")),
    ],
)
def test_gpu_product_fusions_compile_without_spills_for_h100(load, use, tile, fusion):
    tile, (present, method) = getattr(load("gpu_sections.fused"), tile), PRODUCTS[fusion]
    optional = ("alpha", "residual", "weight", "bias", "z")
    constants = {name: None for name in optional if name not in present}
    constants |= {"METHOD": method, "PROLOGUE": "before" in fusion, "EPILOGUE": fusion == "after"}
    constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
    constants |= {"DESCRIPTORS": tile.descriptors, "GROUP": 8}
    types = dict.fromkeys(("a", "b", "c", *present), "bf16")
    if tile.descriptors:
        types |= {"a": f"tensordesc<bf16[{tile.m},{tile.k}]>"}
        types |= {"b": f"tensordesc<bf16[{tile.n},{tile.k}]>"}
    ptx, registers = use(
        *("matmul", types, constants),
        warps=tile.warps,
        num_stages=tile.stages,
        multiples_of_16=("m", "n", "k"),
    )
    assert registers <= 255
    assert "wgmma.mma_async" in ptx
    assert ("cp.async.bulk.tensor" in ptx) == tile.descriptors
    instruction = {"plain": None, "before, in pairs": "tanh.approx.bf16x2"}
    expected = instruction.get(fusion, "tanh.approx.f32")
    assert re.findall(r"tanh\.approx\.\w+", ptx)[:1] == ([expected] if expected else [])


def test_gpu_fusion_scale_of_fp8_fits_every_output(load):
    fused = load("gpu_sections.fused")
    weight, bias = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    assert fused.largest_scale(weight, bias) * 448 == 3.5
    assert fused.largest_scale(weight, None) * 448 == 2.0


def test_gpu_candidates_that_fail_do_not_stop_the_others(load, capsys):
    def fail() -> None:
        raise RuntimeError("out of shared memory")

    calls = {"first": lambda: 1, "failing": fail, "last": lambda: 2}
    assert list(load("gpu_sections.timing").those_that_run(calls)) == ["first", "last"]
    assert "failing is left out: RuntimeError: out of shared memory" in capsys.readouterr().out


def test_gpu_launch_count_leaves_out_copies_and_annotations(load):
    timing = load("gpu_sections.timing")

    class Event:
        is_user_annotation = False
        device_type = torch.autograd.DeviceType.CUDA

        def __init__(self, name, **different):
            self.name = name
            self.__dict__ |= different

    events = [
        Event("kernel"),
        Event("kernel"),
        Event("Memcpy DtoD (Device -> Device)"),
        Event("Memset (Device)"),
        Event("a region", is_user_annotation=True),
        Event("aten::add", device_type=torch.autograd.DeviceType.CPU),
    ]
    assert timing.count_kernels(events) == 2
