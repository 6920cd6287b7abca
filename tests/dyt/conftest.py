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

from dyt import Derf, DyT


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


@pytest.fixture
def assert_same_network():
    """Return a function that compares the modules and parameters of two converted networks."""

    def check(a, b):
        """Assert the same modules, by path and kind, with the same parameters in the same order."""
        a_modules, b_modules = dict(a.named_modules()), dict(b.named_modules())
        assert list(a_modules) == list(b_modules)
        for path, module in b_modules.items():
            if isinstance(module, (DyT, Derf)):
                assert isinstance(a_modules[path], type(module)), path
                assert a_modules[path].extra_repr() == module.extra_repr(), path
            else:
                # Parametrizations make a class of their own for each module.
                assert repr(type(a_modules[path])) == repr(type(module)), path
        a_state, b_state = a.state_dict(), b.state_dict()
        assert list(a_state) == list(b_state)
        assert all(torch.equal(a_state[name], b_state[name]) for name in b_state)
        assert [n for n, _ in a.named_parameters()] == [n for n, _ in b.named_parameters()]

    return check
