"""Tests of the choice of kernels, methods and launches, without Triton and without a GPU."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dyt.backends import triton, triton_choice, triton_launch
from dyt.backends.triton_choice import make_backward, make_forward
from dyt.backends.triton_launch import Backward, Forward, is_plain_parameter, make_launcher
from dyt.backends.triton_tuning import VARIANTS, Tuning

MULTIPROCESSORS = triton_choice._multiprocessors
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64
SHAPE, STRIDES = (64, 768), (768, 1)
SCALAR, VECTOR = (BF16, 1, True, nn.Parameter, 0), (BF16, 1, True, nn.Parameter, 0)
TANH = ("tanh", -1, False)


@pytest.fixture(autouse=True)
def launchers(monkeypatch):
    """Replace launchers by (kernel, grid, numbers, constants), on the second of several H100."""
    kernels = SimpleNamespace(INTERPRETED=False, forward="forward", backward="backward")
    kernels.add_partial_sums = "add_partial_sums"
    monkeypatch.setattr(triton_choice, "_kernels", lambda: kernels)
    monkeypatch.setattr(triton_choice, "_multiprocessors", {0: 132}.get)
    monkeypatch.setattr(triton_choice, "has_several_devices", lambda device: device == 0)
    monkeypatch.setattr(
        triton_choice,
        "make_launcher",
        lambda kernel, grid, numbers, **constants: (kernel, grid, numbers, constants),
    )
    return kernels


def forward(tuned=Tuning(), **changes):  # noqa: B008
    arguments = {
        "shape": SHAPE, "strides": STRIDES, "dtype": BF16, "device": 0, "alpha": SCALAR,
        "shift": None, "weight": VECTOR, "bias": VECTOR, "options": TANH,
    }  # fmt: skip
    return make_forward(tuned, **(arguments | changes))


def backward(tuned=Tuning(), **changes):  # noqa: B008
    arguments = {
        "shape": SHAPE, "strides": STRIDES, "grad_strides": STRIDES, "dtype": BF16,
        "grad_dtype": BF16, "device": 0, "scalars": (BF16, None), "weight": VECTOR,
        "bias": VECTOR, "options": TANH,
    }  # fmt: skip
    return make_backward(tuned, **(arguments | changes))


# Of 64 rows with 768 channels in bfloat16: tiles of 4 × 256, 3 blocks of channels.
CONSTANTS = {
    "METHOD": "approximate",
    "STEPS": 4,
    "BLOCK_P": 4,
    "BLOCK_C": 256,
    "CHANNELS_FIRST": False,
    "NESTED": False,
    "CONTIGUOUS": True,
    "INT64": False,
    "ALIGNMENT": 8,
    "num_warps": 4,
}
FORWARD = Forward(
    dtype=BF16,
    launch=("forward", (3, 4), (64, 64, 768, 0, 0), CONSTANTS),
    is_dense=True,
    copies_input=False,
    copies_parameters=False,
    guards_device=True,
    is_plain=True,
)
# Of each of 4 groups of rows, two sums for each channel and two for each of 3 blocks.
BACKWARD = Backward(
    launch=("backward", (3, 4), (64, 64, 768, 0, 0, 0, 0), {"BIAS": True, **CONSTANTS}),
    add_partial_sums=("add_partial_sums", (24, 3), (4, 768, 12), {"ROWS": 128, "COLUMNS": 32}),
    partial_sums=6168,
    is_dense=True,
    copies_input=False,
    copies_weight=False,
    guards_device=True,
)


def test_make_forward_chooses_the_whole_launch():
    assert forward() == FORWARD
    assert forward(weight=(BF16, 1, False, Tensor, 0)).copies_parameters
    assert forward(bias=(BF16, 1, False, Tensor, 0)).copies_parameters
    kernel, _, _, constants = forward(weight=None, bias=None, options=("erf", -1, False)).launch
    assert (kernel, constants["METHOD"]) == ("forward", "polynomial")


def test_make_backward_chooses_both_launches():
    assert backward() == BACKWARD
    assert backward(weight=(BF16, 1, False, Tensor, 0)).copies_weight
    assert not backward(bias=(BF16, 1, False, Tensor, 0)).copies_weight
    assert not backward(weight=None).copies_weight
    assert not backward(bias=None).launch[3]["BIAS"]
    # 40 channels: the last 8 are added up by a second program.
    grid, numbers = backward(shape=(64, 40), strides=(40, 1), grad_strides=(40, 1))[1][1:3]
    assert grid == (2, 3) and numbers[1] == 40


def test_input_that_no_kernel_can_read_is_copied():
    """Channels of a transposed matrix are not next to each other."""
    turned = (1, 64)
    chosen = forward(strides=turned)
    assert chosen == FORWARD._replace(is_dense=False, copies_input=True)
    for strides in ({"strides": turned}, {"grad_strides": turned}):
        expected = BACKWARD._replace(is_dense="strides" not in strides, copies_input=True)
        assert backward(**strides) == expected


def test_empty_input_launches_nothing():
    empty = {"shape": (0, 768), "strides": (768, 1)}
    assert forward(**empty) == Forward(BF16, None, True, False, False, False, True)
    expected = Backward(None, None, 0, True, False, False, False)
    assert backward(**empty, grad_strides=(768, 1)) == expected


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({}, True),
        ({"shift": SCALAR}, True),
        ({"dtype": FP64}, False),
        ({"shape": (), "strides": (), "weight": None, "bias": None}, False),
        ({"alpha": (FP64, 1, True, nn.Parameter, 0)}, False),
        ({"weight": (BF16, 1, True, nn.Parameter, 1)}, False),
        ({"bias": (BF16, 1, True, nn.Module, 0)}, False),
    ],
    ids=str,
)
def test_only_plain_tensors_are_computed_without_the_operator(changes, plain):
    assert forward(**changes).is_plain == plain


def test_plain_parameters_have_a_supported_dtype_class_and_device():
    for dtype in (FP32, BF16, torch.float16):
        for kind in (Tensor, nn.Parameter):
            assert is_plain_parameter((dtype, 1, True, kind, 1), 1)
    assert not is_plain_parameter((FP64, 1, True, Tensor, 1), 1)
    assert not is_plain_parameter((FP32, 1, True, nn.Buffer, 1), 1)
    assert not is_plain_parameter((FP32, 1, True, Tensor, 0), 1)


@pytest.mark.parametrize(
    ("device", "count", "several"), [(-1, 8, False), (0, 1, False), (0, 2, True), (1, 2, True)]
)
def test_device_is_guarded_if_it_is_a_gpu_of_several(monkeypatch, device, count, several):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert triton_launch.has_several_devices.__wrapped__(device) == several


def test_tuning_determines_tiles_and_programs():
    """1,536 rows of 768 channels; by default 8 programs of each multiprocessor, 4 backward."""
    shape = {"shape": (1536, 768), "strides": STRIDES}
    launches = {}
    for name, tuned in VARIANTS.items():
        one = forward(tuned, **shape).launch
        two = backward(tuned, **shape, grad_strides=STRIDES).launch
        launches[name] = [
            (grid[1], c["STEPS"], c["BLOCK_P"], c["num_warps"], c["METHOD"])
            for _, grid, _, c in (one, two)
        ]
    default = (96, 4, 4, 4, "approximate")
    assert launches == {
        "default": [default, default],
        "2 steps": [(192, 2, 4, 4, "approximate"), (176, 2, 4, 4, "approximate")],
        "8 steps": [(48, 8, 4, 4, "approximate"), default],
        "256 threads": [(48, 4, 8, 8, "approximate"), (48, 4, 8, 8, "approximate")],
        "12 programs": [(192, 2, 4, 4, "approximate"), (192, 2, 4, 4, "approximate")],
        "one tile": [default, default],
        "tanh by exp2": [(96, 4, 4, 4, "exp2"), (96, 4, 4, 4, "exp2")],
        "tanh rational": [(96, 4, 4, 4, "rational"), (96, 4, 4, 4, "rational")],
    }
    many = {"shape": (2**16, 768), "strides": STRIDES}
    groups = {name: forward(tuned, **many).launch[1][1] for name, tuned in VARIANTS.items()}
    assert groups == {
        "default": 352, "2 steps": 352, "8 steps": 176, "256 threads": 176, "12 programs": 528,
        "one tile": 4096, "tanh by exp2": 352, "tanh rational": 352,
    }  # fmt: skip
    many["grad_strides"] = STRIDES
    groups = {name: backward(tuned, **many).launch[1][1] for name, tuned in VARIANTS.items()}
    assert groups == {
        "default": 176, "2 steps": 176, "8 steps": 176, "256 threads": 88, "12 programs": 264,
        "one tile": 176, "tanh by exp2": 176, "tanh rational": 176,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("squash", "dtype", "accurate", "interpreted", "method"),
    [
        ("tanh", BF16, False, False, "approximate"),
        ("tanh", FP32, False, False, "rational"),
        ("tanh", torch.float16, False, False, "rational"),
        ("tanh", BF16, True, False, "library"),
        ("tanh", FP32, True, False, "library"),
        ("erf", BF16, False, False, "polynomial"),
        ("erf", FP32, False, False, "erf"),
        ("erf", BF16, True, False, "erf"),
        ("tanh", FP32, True, True, "rational"),
        ("tanh", BF16, False, True, "rational"),
        ("erf", BF16, False, True, "polynomial"),
    ],
)
def test_method_depends_on_function_dtype_and_accuracy(
    launchers, squash, dtype, accurate, interpreted, method
):
    launchers.INTERPRETED = interpreted
    assert triton_choice._method(Tuning(), squash, dtype, accurate) == method
    # A tuning changes tanh alone, and only where an approximation is allowed.
    tuned = triton_choice._method(Tuning(tanh="exp2"), squash, dtype, accurate)
    assert tuned == ("exp2" if (squash, dtype, accurate) == ("tanh", BF16, False) else method)


def test_method_follows_the_dtype_that_is_written():
    """Where the output or its gradient is float32, approximations for bfloat16 are too rough."""
    wide = {"weight": (FP32, 1, True, Tensor, 0)}
    assert forward().launch[3]["METHOD"] == backward().launch[3]["METHOD"] == "approximate"
    assert forward(**wide).launch[3]["METHOD"] == "rational"
    assert backward(grad_dtype=FP32, **wide).launch[3]["METHOD"] == "rational"
    assert backward(dtype=FP32, **wide).launch[3]["METHOD"] == "approximate"


@pytest.mark.parametrize(
    ("installed", "version", "interpreted", "cuda", "devices", "problem"),
    [
        (False, "3.4.0", False, "12.8", 1, "Triton is not installed"),
        (
            *(True, "3.3.1", False, "12.8", 1),
            "Triton 3.3.1 is older than 3.4, which comes with torch 2.8",
        ),
        (True, "3.4.0", False, "12.8", 1, None),
        (True, "3.10.0", False, "12.8", 2, None),
        (True, "3.4.0", False, None, 0, "torch was built without CUDA"),
        (True, "3.4.0", False, "12.8", 0, "no CUDA device was found"),
        (True, "3.4.0", True, None, 0, None),
        (
            True,
            "3.3.1",
            True,
            None,
            0,
            "Triton 3.3.1 is older than 3.4, which comes with torch 2.8",
        ),
    ],
)
def test_problem_is_what_the_kernels_lack(
    monkeypatch, installed, version, interpreted, cuda, devices, problem
):
    monkeypatch.setattr(triton, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(triton, "version", lambda name: version)
    monkeypatch.setattr(triton, "INTERPRETED", interpreted)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert triton._problem() == problem


def test_use_tuning_ends_with_the_block():
    before = triton._find_forward, triton._find_backward
    with pytest.raises(RuntimeError), triton.use_tuning(Tuning(steps=2)):
        inside = triton._find_forward, triton._find_backward
        raise RuntimeError
    assert (triton._find_forward, triton._find_backward) == before
    assert all(one is not other for one, other in zip(inside, before, strict=True))


class Kernel:
    """A kernel whose launches are recorded; ``compiles`` is False in the interpreter."""

    arg_names = ("x", "y", "rows", "columns", "METHOD", "STEPS")

    def __init__(self, compiles):
        self.compiles, self.launches = compiles, []

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            self.launches.append(("by Triton", grid, arguments, constants))
            return Compiled(self) if self.compiles else None

        return launch


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.launches.append(("compiled", grid, arguments))


@pytest.mark.parametrize("compiles", [True, False])
def test_launcher_calls_the_compiled_kernel_at_aligned_addresses(compiles):
    kernel = Kernel(compiles)
    launch = make_launcher(kernel, (3, 4), (64, 768), STEPS=2, METHOD="erf", num_warps=4)
    constants = {"STEPS": 2, "METHOD": "erf", "num_warps": 4}
    by_triton = ("by Triton", (3, 4), ("x", "y", 64, 768), constants)
    compiled = ("compiled", (3, 4, 1), ("x", "y", 64, 768, "erf", 2))
    for addresses in (8, 32, 48, 8):
        launch(addresses, "x", "y")
    expected = [by_triton, by_triton, compiled if compiles else by_triton, by_triton]
    assert kernel.launches == expected


MEMORY = torch.ones(256)
ALIGNED = MEMORY[(-MEMORY.data_ptr() // 4) % 4 :]
"""Memory whose address is a multiple of 16, as that of tensors on a GPU."""


def tensors(misaligned, shapes):
    """Tensors by name, all at multiples of 16 bytes except those of these names."""
    return {
        name: ALIGNED[32 * i + (name in misaligned) :][: rows * 4].view(-1, 4)[:, :4]
        for i, (name, rows) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("misaligned", ["", "x", "weight", "bias"])
def test_forward_launch_is_told_the_alignment_of_every_tensor(misaligned):
    launches = []
    chosen = FORWARD._replace(
        dtype=FP32, launch=lambda *arguments: launches.append(arguments), guards_device=False
    )
    given = tensors(misaligned, {"x": 2, "weight": 1, "bias": 1})
    alpha = torch.ones(1)
    y = triton.run_forward(chosen, given["x"], alpha, None, given["weight"], given["bias"])
    ((addresses, *arguments),) = launches
    assert [id(argument) for argument in arguments] == [
        id(argument) for argument in (given["x"], alpha, None, given["weight"], given["bias"], y)
    ]
    assert bool(addresses & 15) == bool(misaligned)


@pytest.mark.parametrize("misaligned", ["", "x", "grad", "weight"])
def test_backward_launch_is_told_the_alignment_of_every_tensor(monkeypatch, misaligned):
    launches, sums = [], []
    chosen = BACKWARD._replace(
        launch=lambda *arguments: launches.append(arguments),
        add_partial_sums=lambda *arguments: sums.append(arguments),
        guards_device=False,
    )
    monkeypatch.setattr(triton, "_find_backward", lambda *arguments: chosen)
    given = tensors(misaligned, {"x": 2, "grad": 2, "weight": 1})
    alpha = torch.ones(1)
    grads = triton.compute_gradients(
        given["grad"], given["x"], alpha, None, given["weight"], None, TANH
    )
    ((addresses, *arguments),) = launches
    expected = [given["grad"], given["x"], alpha, None, given["weight"], grads[0]]
    assert list(map(id, arguments[:-1])) == list(map(id, expected))
    assert arguments[-1].shape == (6168,) and arguments[-1].dtype == FP32
    assert bool(addresses & 15) == bool(misaligned)
    ((always_aligned, partial, *found),) = sums
    assert always_aligned == 0 and partial is arguments[-1]
    assert list(map(id, found)) == list(map(id, grads[1:]))


def test_kernels_get_contiguous_copies_where_they_need_them(monkeypatch):
    launches = []

    def record(addresses, *arguments):
        launches.append([a is None or a.is_contiguous() for a in arguments])

    chosen = FORWARD._replace(
        dtype=FP32,
        launch=record,
        is_dense=False,
        copies_input=True,
        copies_parameters=True,
        guards_device=False,
    )
    turned, alternate = torch.ones(4, 6).t(), torch.ones(8)[::2]
    triton.run_forward(chosen, turned, torch.ones(1), None, alternate, alternate)
    chosen = BACKWARD._replace(
        launch=record,
        add_partial_sums=lambda *_: None,
        is_dense=False,
        copies_input=True,
        copies_weight=True,
        guards_device=False,
    )
    monkeypatch.setattr(triton, "_find_backward", lambda *arguments: chosen)
    triton.compute_gradients(turned, turned, torch.ones(1), None, alternate, None, TANH)
    assert launches == [[True] * 6, [True] * 7]


def test_programs_of_the_interpreter_are_those_of_one_multiprocessor(monkeypatch):
    properties = {3: SimpleNamespace(multi_processor_count=114)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.get)
    count = MULTIPROCESSORS.__wrapped__
    assert (count(-1), count(3)) == (1, 114)
