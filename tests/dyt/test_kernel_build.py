"""Tests of the kernel's compilation into the user's cache, and of the warning without a kernel."""

import os
import subprocess
import sys

import pytest
import torch

from dyt import kernel_build
from dyt.__main__ import main
from dyt.kernel_build import KernelBuildError, TorchInstallation

TORCH = TorchInstallation(folder="/torch", version="2.11.0", cxx11_abi=True)

# Without the installed kernel.
PRELUDE = "import sys; sys.modules['_dyt_cpu_2'] = None; import torch, dyt; "


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_first_cpu_use_without_kernel_warns_once_and_names_the_command(tmp_path):
    code = (
        "layer = dyt.DyT(3); layer(torch.ones(3)); layer(torch.ones(3)); dyt.Derf(3)(torch.ones(3))"
    )
    found = run(code, XDG_CACHE_HOME=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("python -m dyt build") == 1
    silent = run(code, XDG_CACHE_HOME=str(tmp_path), DYT_BACKEND="reference")
    assert silent.stderr == ""


def test_kernel_in_the_cache_is_used(tmp_path):
    """The installed kernel stands for the one that `python -m dyt build` makes."""
    import _dyt_cpu_2

    path = kernel_build.cached_kernel(torch.__version__)
    target = tmp_path / path.relative_to(path.parents[2])
    target.parent.mkdir(parents=True)
    target.symlink_to(_dyt_cpu_2.__file__)
    code = "import dyt.backends.cpu as cpu; print(cpu.PROBLEM, dyt.DyT(3)(torch.ones(3)).shape)"
    found = run(code, XDG_CACHE_HOME=str(tmp_path))
    assert found.stdout.strip() == "None torch.Size([3])", found.stderr
    target.unlink()
    target.write_bytes(b"damaged")
    found = run(code, XDG_CACHE_HOME=str(tmp_path))
    assert found.stdout.startswith("it was not built"), found.stderr


def test_cached_kernel_depends_on_torch_and_source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = kernel_build.cached_kernel("2.11.0")
    assert first.is_relative_to(tmp_path / "dyt")
    assert first != kernel_build.cached_kernel("2.11.1")
    monkeypatch.setattr(kernel_build, "SOURCES", tmp_path)
    assert first != kernel_build.cached_kernel("2.11.0")


def test_compile_kernel_replaces_the_file_only_when_complete(tmp_path, monkeypatch):
    commands = []

    def compile_all_but_the_last(command):
        commands.append(command)
        if "-c" not in command:
            raise KernelBuildError("no room")

    monkeypatch.setattr(kernel_build, "_run", compile_all_but_the_last)
    output = tmp_path / "kernel.so"
    output.write_text("old")
    with pytest.raises(KernelBuildError, match="no room"):
        kernel_build.compile_kernel(output, TORCH)
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]
    assert any(part == "-I/torch/include" for part in commands[0])


def test_build_without_compiler_or_torch_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(kernel_build, "find_torch", lambda: TORCH)
    assert main(["build"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no C++ compiler (no-such-compiler)" in error
    monkeypatch.undo()
    monkeypatch.setattr(kernel_build, "_ASK_TORCH", "import no_such_torch")
    with pytest.raises(KernelBuildError, match="torch cannot be imported: ModuleNotFoundError"):
        kernel_build.find_torch()


def test_find_torch_leaves_the_isolated_environment(tmp_path, monkeypatch):
    """pip isolates a build by PYTHONPATH, where a broken torch stands for none."""
    (tmp_path / "torch.py").write_text("raise ImportError('isolated')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert kernel_build.find_torch().version == torch.__version__


@pytest.mark.slow
def test_build_makes_a_kernel_that_loads(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "dyt", "build"], env=environment, check=True)
    code = "import dyt.backends.cpu as cpu; print(cpu.PROBLEM, dyt.DyT(3)(torch.ones(3)).shape)"
    assert run(code, XDG_CACHE_HOME=str(tmp_path)).stdout.strip() == "None torch.Size([3])"
