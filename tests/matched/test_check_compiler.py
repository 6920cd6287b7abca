"""tools/check_compiler.py: one line that names what to install if fairseq cannot be built."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_compiler.py"


def run_tool(code=None, **environ):
    """Run the script with this Python, after ``code``."""
    script = f"import runpy; {code or ''}\nrunpy.run_path({str(TOOL)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


def error_line(*arguments, **environ):
    result = run_tool(*arguments, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: fairseq is built on this machine, ")
    return line


def compiler(folder, text):
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_check_compiler_without_a_compiler():
    line = error_line(CXX="no-such-compiler -O2")
    assert "has no C++ compiler (no-such-compiler)" in line
    assert "g++ on Debian and Ubuntu" in line and "make setup CXX=" in line


def test_check_compiler_without_python_headers(tmp_path):
    no_headers = f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}"
    line = error_line(no_headers, CXX=compiler(tmp_path, "exit 0"))
    assert f"{tmp_path}/Python.h" in line
    assert "python{}.{}-dev on Debian".format(*sys.version_info) in line


@pytest.fixture
def headers(tmp_path):
    """Code that lets the script find Python.h, which it looks for before it compiles."""
    (tmp_path / "Python.h").touch()
    return f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}"


def test_check_compiler_quotes_a_failing_compiler(tmp_path, headers):
    broken = compiler(tmp_path, "echo 'c++: fatal error: cannot execute cc1plus' >&2; exit 1")
    line = error_line(headers, CXX=broken)
    assert f"({broken}) fails: c++: fatal error: cannot execute cc1plus. Install g++" in line
    assert "fails: exit code 3. " in error_line(headers, CXX=compiler(tmp_path, "exit 3"))


def test_check_compiler_is_silent_if_cpp_compiles(tmp_path, headers):
    """The compiler gets the include path of the headers."""
    log = tmp_path / "log"
    result = run_tool(headers, CXX=compiler(tmp_path, f'echo "$@" > {log}') + " -O1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert log.read_text().startswith(f"-O1 -I{tmp_path} -c ")


def test_check_compiler_accepts_this_machine():
    result = run_tool()
    assert (result.returncode, result.stderr) == (0, "")


def test_make_setup_checks_the_compiler_before_pip():
    commands = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 0 < commands.index("tools/create-environment") < commands.index("tools/pip_install.py")
    script = (ROOT / "tools" / "create-environment").read_text(encoding="utf-8")
    assert 0 < script.index("tools/check_compiler.py") < script.index("-m venv")


def test_make_setup_builds_with_locked_versions():
    """Otherwise fairseq would be built with the newest cython and numpy."""
    variables = runpy.run_path(str(ROOT / "tools" / "pip_install.py"))["environment"]({}, {})
    names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")
    assert {variables[name] for name in names} == {"requirements.lock"}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name in ("fairseq==0.12.2", "cython==", "numpy==", "setuptools=="):
        assert f"\n{name}" in lock
    assert "://" not in lock and "@" not in lock
