"""Tests of the GPU kernels compiled for an H100, without a GPU, by the ptxas included in Triton."""

import math
import os
import re
from collections.abc import Callable

import pytest
import torch

from dyt.backends import triton_choice, triton_plan
from dyt.backends.reference import result_dtype
from dyt.backends.triton_tuning import VARIANTS, Tuning

from .ahead_of_time import build, resources

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("DYT_TESTS_SKIP_MISSING") == "1",
    reason="register use depends on the version of Triton; the plans are for the locked one",
)

FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16
# Sizes of x, channel axis, dtypes of x and of the parameters; cases of the papers' models.
COMPILED = {
    "bf16 4096": ((4096, 4096), -1, BFLOAT, BFLOAT),
    "fp32 4096": ((4096, 4096), -1, FLOAT, FLOAT),
    "fp16 4096": ((4096, 4096), -1, HALF, HALF),
    "autocast 4096": ((4096, 4096), -1, BFLOAT, FLOAT),
    "bf16 768": ((128, 197, 768), -1, BFLOAT, BFLOAT),
    "bf16 first": ((64, 96, 56, 56), 1, BFLOAT, BFLOAT),
}
DEFAULT = Tuning()
NAMES = {FLOAT: "fp32", BFLOAT: "bf16", HALF: "fp16"}


@pytest.fixture
def compiled(tmp_path, monkeypatch) -> Callable:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compile(
        direction: str, model: str, squash: str, tuned: Tuning = DEFAULT
    ) -> tuple[str, dict[str, int], int, int]:
        """Return PTX, resources, loads per thread in a loop, and programs per multiprocessor."""
        sizes, axis, x_type, type = COMPILED[model]
        x = torch.empty(sizes, dtype=x_type, device="meta")
        parameter = torch.empty(sizes[axis], dtype=type, device="meta")
        y_type = result_dtype(x, parameter)
        method = triton_choice._method(tuned, squash, y_type, accurate=False)
        size = max(x_type.itemsize, y_type.itemsize)
        backward = direction == "backward"
        strides = (x.stride(),) * (2 if backward else 1)
        steps = tuned.steps
        if backward:
            steps = tuned.steps_backward or triton_plan.STEPS_BACKWARD[method]
        programs = tuned.programs_backward if backward else tuned.programs
        launch = triton_plan.plan_launch(
            sizes, strides, 1, axis, size, steps, 132 * programs, tuned.threads
        )
        constants = {"METHOD": method, "BIAS": True, **launch.constants}
        if squash == "tanh":
            constants["shift"] = None
        types = dict.fromkeys(("alpha", "shift", "weight", "bias"), NAMES[type])
        types |= {"x": NAMES[x_type], "dx": NAMES[x_type], "sums": "fp32"}
        types |= {"y": NAMES[y_type], "grad": NAMES[y_type]}
        ptx, code = build(
            getattr(triton_choice._kernels(), direction), types, constants, tuned.threads // 32
        )
        return ptx, resources(code, tmp_path), steps * len(strides), programs

    return compile


@pytest.mark.parametrize("squash", ["tanh", "erf"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("model", COMPILED)
def test_kernels_compile_without_spills_for_h100(compiled, model, direction, squash):
    ptx, used, loads, programs = compiled(direction, model, squash)
    fast = squash == "tanh" and model.startswith("bf16")
    assert ("tanh.approx.f32" in ptx) == fast
    assert used["STACK"] == used["LOCAL"] == 0  # no register is spilled
    # The multiprocessor has enough registers for all programs that are planned to share it.
    assert used["REG"] * triton_plan.THREADS * programs <= 2**16
    width = "[24]" if model == "autocast 4096" else "4"  # 8 bytes of x for 16 of y
    assert len(re.findall(rf"ld\.global\.v{width}\.b32", ptx)) >= loads
    assert len(re.findall(r"st\.global\.v[24]\.b32", ptx)) >= math.ceil(loads / 2)
    loop = ptx[ptx.index("$L__BB0_") :]
    assert "bar.sync" not in loop[: loop.rindex("bra")]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "default"])
def test_tuning_variants_compile_without_spills_for_h100(compiled, name, direction):
    tuned = VARIANTS[name]
    ptx, used, loads, programs = compiled(direction, "bf16 4096", "tanh", tuned)
    assert ("tanh.approx.f32" in ptx) == (tuned.tanh is None)
    assert used["STACK"] == used["LOCAL"] == 0
    if programs < 2**10:  # more than a multiprocessor can hold only for one tile per program
        assert used["REG"] * tuned.threads * programs <= 2**16
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) >= loads


@pytest.mark.parametrize("type", ["bf16", "fp32"])
def test_add_partial_sums_compiles_without_spills_for_h100(type, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, columns = triton_choice._FINAL_TILE
    names = ("dalpha", "dshift", "dweight", "dbias")
    types = {"sums": "fp32", **dict.fromkeys(names, type)}
    _, code = build(
        triton_choice._kernels().add_partial_sums, types, {"ROWS": rows, "COLUMNS": columns}
    )
    used = resources(code, tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0
