"""Fixtures of the dyt tests: one thread and a fixed seed, for the same results on any machine.

With DYT_TESTS_SKIP_MISSING=1, as in `make test-dyt TORCH=...`, test files that import a library
which is not installed are left out. Otherwise such a library is an error.
"""

import ast
import importlib.util
import os
from pathlib import Path

import pytest
import torch


def _missing_libraries(path):
    """Return the libraries that a test file imports at module level and that are not installed."""
    imports = ast.parse(path.read_text(encoding="utf-8")).body
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    return [name for name in names if importlib.util.find_spec(name.partition(".")[0]) is None]


if os.environ.get("DYT_TESTS_SKIP_MISSING") == "1":
    collect_ignore = [
        p.name for p in Path(__file__).parent.glob("test_*.py") if _missing_libraries(p)
    ]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
