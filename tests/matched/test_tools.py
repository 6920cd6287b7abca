"""tools/check_python.py refuses, in one line, a Python that the pinned packages do not run on."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_python.py"


@pytest.fixture(scope="module")
def check_python():
    spec = importlib.util.spec_from_file_location("check_python", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 9), (3, 12, 4), (3, 12)])
def test_a_python_that_fits(check_python, version):
    assert check_python.complaint(version) is None


@pytest.mark.parametrize("version", [(2, 7), (3, 8), (3, 10), (3, 10, 14), (3, 13), (3, 13, 1)])
def test_a_python_that_does_not(check_python, version):
    line = check_python.complaint(version)
    assert line.startswith(f"error: this is Python {version[0]}.{version[1]};")
    assert "need 3.11 or 3.12" in line and "make setup PYTHON=python3.12" in line
    assert "\n" not in line


def test_it_agrees_with_the_packages():
    for path in (TOOL.parents[1]).glob("packages/*/pyproject.toml"):
        assert 'requires-python = ">=3.11,<3.13"' in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", ["python2.7", "python3.8", "python3.10", "python3.13"])
def test_any_python_can_read_it(name):
    found = shutil.which(name)
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"no {name} here; complaint() is tested above")
    answer = subprocess.run([found, str(TOOL)], capture_output=True, text=True)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"error: this is Python {name.removeprefix('python')};")
