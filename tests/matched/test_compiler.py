"""tools/check_compiler.py says, in one line, what to install where fairseq cannot be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_compiler.py"


def answer(code=None, **environ):
    """Of the script, run by this Python; ``code`` runs before it."""
    script = f"import runpy; {code or ''}\nrunpy.run_path({str(TOOL)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


def refusal(*arguments, **environ):
    result = answer(*arguments, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: fairseq is built on this machine, ")
    return line


def compiler(folder, text):
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_it_says_what_to_install():
    line = refusal(CXX="no-such-compiler -O2")
    assert "has no C++ compiler (no-such-compiler)" in line
    assert "g++ on Debian and Ubuntu" in line and "make setup CXX=" in line


def test_without_pythons_headers_it_says_what_to_install(tmp_path):
    elsewhere = f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}"
    line = refusal(elsewhere, CXX=compiler(tmp_path, "exit 0"))
    assert f"{tmp_path}/Python.h" in line
    assert "python{}.{}-dev on Debian".format(*sys.version_info) in line


@pytest.fixture
def headers(tmp_path):
    """Code that makes the script find the headers, which it looks for before it compiles."""
    (tmp_path / "Python.h").touch()
    return f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}"


def test_a_compiler_that_fails_is_quoted(tmp_path, headers):
    broken = compiler(tmp_path, "echo 'c++: fatal error: cannot execute cc1plus' >&2; exit 1")
    line = refusal(headers, CXX=broken)
    assert f"({broken}) fails: c++: fatal error: cannot execute cc1plus. Install g++" in line
    assert "fails: exit code 3. " in refusal(headers, CXX=compiler(tmp_path, "exit 3"))


def test_it_is_silent_where_cpp_compiles(tmp_path, headers):
    """The arguments are those of a compilation that includes the headers."""
    log = tmp_path / "log"
    result = answer(headers, CXX=compiler(tmp_path, f'echo "$@" > {log}') + " -O1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert log.read_text().startswith(f"-O1 -I{tmp_path} -c ")


def test_it_finds_the_compiler_that_has_built_fairseq():
    result = answer()
    assert (result.returncode, result.stderr) == (0, "")


def test_setup_asks_before_pip_starts():
    asked = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 0 < asked.index("tools/check_compiler.py") < asked.index("pip install")


def test_the_build_uses_the_versions_of_the_lock():
    """Or cython and numpy, with which fairseq is built, would be whatever is newest."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PIP_CONSTRAINT=requirements.lock PIP_BUILD_CONSTRAINT=requirements.lock" in text
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name in ("fairseq==0.12.2", "cython==", "numpy==", "setuptools=="):
        assert f"\n{name}" in lock
    assert "://" not in lock and "@" not in lock
