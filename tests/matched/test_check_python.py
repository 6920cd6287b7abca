"""tools/check_python.py: one line for a Python that the pinned packages do not support."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_python.py"


@pytest.fixture(scope="module")
def check_python():
    spec = importlib.util.spec_from_file_location("check_python", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "version", [(3, 11, 0), (3, 11, 9), (3, 12, 4), (3, 12), (3, 13, 1), (3, 14, 2)]
)
def test_check_python_accepts_supported_versions(check_python, version):
    assert check_python.complaint(version) is None


@pytest.mark.parametrize("version", [(2, 7), (3, 8), (3, 10), (3, 10, 14), (3, 15), (3, 15, 1)])
def test_check_python_refuses_unsupported_versions(check_python, version):
    line = check_python.complaint(version)
    assert line.startswith(f"error: this is Python {version[0]}.{version[1]};")
    assert "need 3.11 to 3.14" in line and "make setup PYTHON=python3.12" in line
    assert "\n" not in line


def test_check_python_agrees_with_requires_python():
    for path in (TOOL.parents[1]).glob("packages/*/pyproject.toml"):
        assert 'requires-python = ">=3.11,<3.15"' in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("version", [(2, 7), (3, 10), (3, 15)])
def test_check_python_script_refuses_with_exit_code_2(version):
    """This Python runs the script with another version in sys.version_info."""
    code = (
        f"import runpy, sys; sys.version_info = {(*version, 0, 'final', 0)}; "
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: this is Python {version[0]}.{version[1]};")


def test_check_python_script_is_silent_if_supported():
    process = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_check_python_has_no_new_syntax():
    """An old Python would print a syntax error instead of the message."""
    text = TOOL.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 4))  # refuses f-strings, := and typed variables
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [f for f in functions if f.returns or any(a.annotation for a in f.args.args)]
    assert text.isascii(), "Python 2 needs an encoding declaration otherwise"
