"""Tests of the kernel's compilation into the user's cache, and of the warning without a kernel."""

import importlib
import os
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest
import torch

import dyt
from dyt import kernel_build
from dyt.__main__ import main
from dyt.backends import cpu
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


def test_first_cpu_use_without_kernel_warns_once_with_the_command(tmp_path):
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


@pytest.mark.parametrize("error", [RuntimeError, PermissionError])
def test_cached_kernel_without_a_home_folder_is_none(monkeypatch, error):
    def no_home(version):
        raise error("Could not determine home directory.")

    monkeypatch.setattr(cpu, "cached_kernel", no_home)
    assert cpu._load_cached() is False


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


@pytest.fixture
def backend(monkeypatch):
    """The build backend, with a kernel that compiles to two bytes."""
    folder = Path(__file__).parents[2] / "shared" / "dyt"
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("build_backend")
    compiler = types.SimpleNamespace(
        MODULE="_dyt_cpu_2",
        find_torch=lambda: TORCH,
        compile_kernel=lambda output, torch: output.write_bytes(b"so"),
        KernelBuildError=KernelBuildError,
    )
    monkeypatch.setattr(module, "_load_kernel_build", lambda: compiler)
    yield module
    sys.modules.pop("build_backend")


def test_build_backend_wheel_has_kernel_sources_and_metadata(backend, tmp_path):
    name = backend.build_wheel(str(tmp_path))
    assert name.startswith("dyt-0.1.0-cp3")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        names = wheel.namelist()
        metadata = wheel.read("dyt-0.1.0.dist-info/METADATA").decode()
        record = wheel.read("dyt-0.1.0.dist-info/RECORD").decode()
    assert {"dyt/layers.py", "dyt/py.typed", "dyt/csrc/kernel.cpp"} <= set(names)
    assert [n for n in names if n.startswith("_dyt_cpu_2") and n.endswith(".so")]
    assert {line.split(",")[0] for line in record.splitlines()} == set(names)
    assert "Requires-Dist: torch>=2.4\n" in metadata
    assert f"Version: {dyt.__version__}\n" in metadata


@pytest.mark.parametrize("flags", ["", "t", "td"], ids=["default", "free-threaded", "debug"])
def test_build_backend_tags_the_abi_of_this_python(backend, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(sys, "abiflags", flags)
    python = "cp{}{}".format(*sys.version_info)
    assert f"-{python}-{python}{flags}-linux_" in backend.build_wheel(str(tmp_path))


def test_build_backend_without_kernel_makes_a_pure_wheel(backend, tmp_path, monkeypatch, capsys):
    def fail():
        raise KernelBuildError("torch cannot be imported")

    monkeypatch.setattr(backend._load_kernel_build(), "find_torch", fail)
    assert backend.build_wheel(str(tmp_path)) == "dyt-0.1.0-py3-none-any.whl"
    assert capsys.readouterr().err == "dyt: CPU kernel not built: torch cannot be imported\n"


def test_build_backend_editable_and_sdist(backend, tmp_path):
    with zipfile.ZipFile(tmp_path / backend.build_editable(str(tmp_path))) as wheel:
        assert wheel.read("__editable__.dyt.pth").decode().endswith("shared/dyt/src\n")
    with tarfile.open(tmp_path / backend.build_sdist(str(tmp_path))) as archive:
        assert "dyt-0.1.0/src/dyt/csrc/kernel.h" in archive.getnames()
        assert "dyt-0.1.0/build_backend.py" in archive.getnames()


def test_load_cached_without_a_home_folder(monkeypatch):
    from dyt.backends import cpu

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(kernel_build.Path, "home", no_home)
    assert not cpu._load_cached()
    monkeypatch.setattr(
        kernel_build,
        "find_torch",
        lambda: kernel_build.TorchInstallation(folder="", version="2.11.0", cxx11_abi=True),
    )
    with pytest.raises(kernel_build.KernelBuildError, match="set XDG_CACHE_HOME"):
        kernel_build.build_into_cache()
