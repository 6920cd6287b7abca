"""tools/find-python: a Python from PATH, or one that uv finds or downloads; no network is used."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "find-python"
UNSUPPORTED = """
case "$2" in
    *"<= (3, "*) exit 1 ;;
    *ensurepip*) exit ${NO_VENV:-0} ;;
    venv) mkdir -p .uv/bin && cp "$PLACE/venv_python" .uv/bin/python ;;
esac
"""
"""A python3 that the pinned packages do not support."""
VENV_PYTHON = """
test "$1 $2" = "tools/pip_install.py uv" || exit 9
test -z "$NO_INDEX" || { echo "progress"; echo "ERROR: no index here" >&2; exit 1; }
cp "$PLACE/uv_program" .uv/bin/uv
"""
UV = """
echo "uv $*" >> "$PLACE/calls"
case "$1 $2" in
    "python find") test -e "$PLACE/found" && cat "$PLACE/found" ;;
    "python install")
        test -z "$NO_DOWNLOAD" || { echo "error: download failed" >&2; exit 2; }
        test -z "$UV_PYTHON_INSTALL_BIN" || echo /managed/python3.12 > "$PLACE/found" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """Return a folder whose bin/ is a PATH with an unsupported python3, and without uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mktemp", "rm", "sed", "tail", "mkdir", "cp", "cat"):
        (folder / name).symlink_to(shutil.which(name))
    program(folder / "python3", UNSUPPORTED)
    program(tmp_path / "venv_python", VENV_PYTHON)
    program(tmp_path / "uv_program", UV)
    return tmp_path


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)


def find_python(place, **environ):
    return subprocess.run(
        [place / "bin" / "sh", TOOL],
        cwd=place,
        env={"PATH": str(place / "bin"), "PLACE": str(place), "TMPDIR": str(place), **environ},
        capture_output=True,
        text=True,
    )


def error_line(*arguments, **environ):
    result = find_python(*arguments, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: there is no Python 3.11 to 3.14 on PATH, and ")
    assert line.endswith(" make setup PYTHON=/path/to/python3.12")
    return line


@pytest.mark.parametrize(
    "name", ["python3", "python3.14", "python3.13", "python3.12", "python3.11"]
)
def test_find_python_prints_the_supported_one_on_path(place, name):
    program(place / "bin" / name, "exit 0")
    result = find_python(place)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{name}\n", "")


def test_find_python_prefers_a_version_that_runs_everything(place):
    program(place / "bin" / "python3", 'case "$2" in *"<= (3, 14)"*) exit 0 ;; esac; exit 1')
    assert find_python(place).stdout == "python3\n"
    program(place / "bin" / "python3.12", "exit 0")
    assert find_python(place).stdout == "python3.12\n"


def test_find_python_installs_uv_and_uses_what_it_finds(place):
    (place / "found").write_text("/opt/python3.11\n")
    result = find_python(place)
    assert (result.returncode, result.stdout) == (0, "/opt/python3.11\n")
    assert "installing uv into .uv/" in result.stderr
    assert (place / ".uv" / "bin" / "uv").exists()
    again = find_python(place)
    assert (again.stdout, again.stderr) == ("/opt/python3.11\n", ""), "uv is installed once"


def test_find_python_uses_the_uv_on_path_to_download(place):
    shutil.copy(place / "uv_program", place / "bin" / "uv")
    result = find_python(place)
    assert (result.returncode, result.stdout) == (0, "/managed/python3.12\n")
    assert not (place / ".uv").exists()
    find = "uv python find --system >=3.11,<3.15"
    calls = (place / "calls").read_text(encoding="utf-8").splitlines()
    assert calls == [find, "uv python install 3.12", find]


def test_find_python_without_venv_module_says_what_to_install(place):
    assert "no python3 with a venv module to install uv" in error_line(place, NO_VENV="1")
    os.remove(place / "bin" / "python3")
    assert "no python3 with a venv module to install uv" in error_line(place)


def test_find_python_passes_on_why_uv_cannot_be_installed(place):
    line = error_line(place, NO_INDEX="1")
    assert "uv, which gets one, cannot be installed (ERROR: no index here)" in line


def test_find_python_passes_on_why_uv_cannot_download(place):
    line = error_line(place, NO_DOWNLOAD="1")
    assert "uv cannot download one (error: download failed)" in line


def test_find_python_leaves_no_temporary_files(place):
    find_python(place, NO_DOWNLOAD="1")
    assert not list(place.glob("tmp.*"))
