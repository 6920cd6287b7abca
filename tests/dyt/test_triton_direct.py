"""Tests of calls of the GPU kernels without torch's operator, with Triton's interpreter.

One process runs them: the interpreter, and GPU kernels on CPU tensors, are chosen when dyt is
imported.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Callable]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("DYT_BACKEND", "triton")
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        pool.submit(os.getpid).result()  # starts the process
    with pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.mark.parametrize(
    "check",
    [
        "compare_with_operator",
        "differentiate_twice",
        "differentiate_each_tensor_alone",
        "call_the_operator_under_modes_and_transforms",
        "leave_other_tensors_to_the_operator",
        "follow_changes_of_a_layer",
    ],
)
def test_triton_direct(interpreter, check):
    file = str(Path(__file__).with_name("direct_calls.py"))
    interpreter(exec, f"import runpy; runpy.run_path({file!r})[{check!r}]()", {})
