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

from ..processes import run_code

TORCH = TorchInstallation(folder="/torch", version="2.11.0", cxx11_abi=True)

# Without the installed kernel.
PRELUDE = "import sys; sys.modules['_dyt_cpu_2'] = None; import torch, dyt; "


def run(code: str, **environment: str) -> str:
    return run_code(PRELUDE + code, **environment)


def test_first_cpu_use_without_kernel_warns_once_with_the_command(tmp_path):
    code = (
        "layer = dyt.DyT(3); layer(torch.ones(3)); layer(torch.ones(3)); dyt.Derf(3)(torch.ones(3))"
    )
    assert run(code, XDG_CACHE_HOME=str(tmp_path)).count("python -m dyt build") == 1
    assert run(code, XDG_CACHE_HOME=str(tmp_path), DYT_BACKEND="reference") == ""


def test_kernel_in_the_cache_is_used(tmp_path):
    """The installed kernel stands for the one that `python -m dyt build` makes."""
    import _dyt_cpu_2

    path = kernel_build.cached_kernel(torch.__version__)
    target = tmp_path / path.relative_to(path.parents[2])
    target.parent.mkdir(parents=True)
    target.symlink_to(_dyt_cpu_2.__file__)
    code = "import dyt.backends.cpu as cpu; print(cpu.PROBLEM, dyt.DyT(3)(torch.ones(3)).shape)"
    assert run(code, XDG_CACHE_HOME=str(tmp_path)) == "None torch.Size([3])\n"
    target.unlink()
    target.write_bytes(b"damaged")
    assert "\nit was not built" in "\n" + run(code, XDG_CACHE_HOME=str(tmp_path))


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


PYTHON = "/python"
COMMON = [
    "g++", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-std=c++17",
    "-Wno-maybe-uninitialized", "-Wno-uninitialized", "-I/torch/include",
    "-I/torch/include/torch/csrc/api/include", f"-I{PYTHON}", "-D_GLIBCXX_USE_CXX11_ABI=1",
    "-DTORCH_EXTENSION_NAME=_dyt_cpu_2",
]  # fmt: skip
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
LIBRARIES = ["-L/torch/lib", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]


def for_capability(name, *flags):
    return [*COMMON, *flags, f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}", "kernel.cpp"]


COMPILED = {  # (system, machine) → command of each object without its output, and of the link
    ("Linux", "x86_64"): (
        {
            "dyt_cpu.o": [*COMMON, "-DDYT_X86", "dyt_cpu.cpp"],
            "DEFAULT.o": for_capability("DEFAULT", "-fopenmp"),
            "AVX2.o": for_capability("AVX2", "-fopenmp", *AVX2),
            "AVX512.o": for_capability("AVX512", "-fopenmp", *AVX512),
        },
        ["g++", "-shared", "dyt_cpu.o", "DEFAULT.o", "AVX2.o", "AVX512.o", *LIBRARIES],
    ),
    ("Linux", "aarch64"): (
        {
            "dyt_cpu.o": [*COMMON, "dyt_cpu.cpp"],
            "DEFAULT.o": for_capability("DEFAULT", "-fopenmp"),
        },
        ["g++", "-shared", "dyt_cpu.o", "DEFAULT.o", *LIBRARIES],
    ),
    ("Darwin", "x86_64"): (
        {"dyt_cpu.o": [*COMMON, "dyt_cpu.cpp"], "DEFAULT.o": for_capability("DEFAULT")},
        [
            *("g++", "-bundle", "-undefined", "dynamic_lookup"),
            *("dyt_cpu.o", "DEFAULT.o", *LIBRARIES),
        ],
    ),
}


@pytest.mark.parametrize(("system", "machine"), COMPILED)
def test_compile_kernel_commands(tmp_path, monkeypatch, system, machine):
    commands = {}

    def run(command):
        words = [Path(word).name if word.startswith(str(tmp_path)) else word for word in command]
        words = [Path(word).name if word.endswith(".cpp") else word for word in words]
        *words, option, output = words
        if words[-1] == "-c":
            words.pop()
        assert option == "-o"
        commands[output] = words
        Path(command[-1]).touch()

    monkeypatch.setattr(kernel_build, "_run", run)
    monkeypatch.setattr(kernel_build, "_find_compiler", lambda: ["g++"])
    monkeypatch.setattr(kernel_build.platform, "system", lambda: system)
    monkeypatch.setattr(kernel_build.platform, "machine", lambda: machine)
    monkeypatch.setattr(kernel_build.sysconfig, "get_path", lambda name: PYTHON)
    monkeypatch.setattr(kernel_build.Path, "is_file", lambda path: True)
    kernel_build.compile_kernel(tmp_path / "new" / "kernel.so", TORCH)
    objects, link = COMPILED[system, machine]
    assert commands.pop("_dyt_cpu_2.so") == link
    assert commands == objects
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kernel.so"]


@pytest.mark.parametrize(
    ("version", "standard"),
    [("2.4.1+cpu", 17), ("2.11.0", 17), ("2.12.0", 20), ("2.14.0a0", 20), ("3.0.0", 20)],
)
def test_headers_of_torch_need_a_standard(version, standard):
    assert kernel_build._standard(version) == f"-std=c++{standard}"


def test_build_without_headers_or_on_windows_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_build, "_find_compiler", lambda: ["g++"])
    monkeypatch.setattr(kernel_build.sysconfig, "get_path", lambda name: str(tmp_path))
    version = "{}.{}".format(*sys.version_info)
    with pytest.raises(KernelBuildError) as error:
        kernel_build.compile_kernel(tmp_path / "kernel.so", TORCH)
    assert str(error.value) == (
        f"Python's headers are missing in {tmp_path}. Install them, such as python{version}-dev on"
        " Debian and Ubuntu."
    )
    monkeypatch.undo()
    monkeypatch.setattr(kernel_build.platform, "system", lambda: "Windows")
    with pytest.raises(KernelBuildError, match=r"^the CPU kernel is not supported on Windows$"):
        kernel_build._find_compiler()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'in a.cpp:' >&2; echo ' a.cpp:1: Error: no' >&2; exit 1", "a.cpp:1: Error: no"),
        ("echo 'killed' >&2; exit 1", "killed"),
        ("exit 7", "exit code 7"),
    ],
)
def test_failed_compilation_has_the_compilers_reason(script, reason):
    with pytest.raises(KernelBuildError) as error:
        kernel_build._run(["sh", "-c", script])
    assert str(error.value) == f"the C++ compiler sh fails: {reason}"
    kernel_build._run(["sh", "-c", "echo 'error: none' >&2"])


def test_build_prints_the_path_or_explains_the_cache(tmp_path, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(kernel_build, "find_torch", lambda: TORCH)
    monkeypatch.setattr(kernel_build, "compile_kernel", lambda *given: built.append(given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["build"]) == 0
    path = kernel_build.cached_kernel("2.11.0")
    assert built == [(path, TORCH)] and path.parent.is_dir()
    assert capsys.readouterr() == (f"dyt: CPU kernel built: {path}\n", "")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["build"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(
        "dyt: CPU kernel not built: the cache folder cannot be written ("
    )
    assert err.endswith("); set XDG_CACHE_HOME to one that can\n")


def test_cached_kernel_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(kernel_build.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(kernel_build.sysconfig, "get_config_var", lambda name: "cpython-311-x86")
    path = kernel_build.cached_kernel("2.11.0")
    folder = path.parent
    assert (path.name, folder.parent) == ("_dyt_cpu_2.so", tmp_path / ".cache" / "dyt")
    start, _, digest = folder.name.rpartition("-")
    assert start == "_dyt_cpu_2-torch2.11.0-cpython-311-x86" and len(digest) == 12


def test_find_torch_tries_this_environment_first(monkeypatch):
    environments, answers = [], []

    def run(command, *, env, **options):
        environments.append("PYTHONPATH" in env)
        code, stdout, stderr = answers.pop(0)
        return types.SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)

    monkeypatch.setattr(kernel_build.subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "/isolated")
    found = (0, 'a warning\n["/torch", "2.11.0", true]\n', "")
    answers[:] = [found]
    assert kernel_build.find_torch() == TORCH and environments == [True]
    answers[:] = [(1, "", "isolated"), found]
    assert kernel_build.find_torch() == TORCH and environments == [True, True, False]
    for stderr, reason in (
        ("Traceback\nImportError: no torch\n", "ImportError: no torch"),
        ("", "no output"),
    ):
        answers[:] = [(1, "", "isolated"), (1, "", stderr)]
        with pytest.raises(KernelBuildError, match=f"^torch cannot be imported: {reason}$"):
            kernel_build.find_torch()


def test_reason_why_the_kernel_is_not_loaded(monkeypatch):
    errors = []

    def import_module(name):
        assert name == "_dyt_cpu_2"
        if errors:
            raise errors[0]

    monkeypatch.setattr(cpu, "import_module", import_module)
    for in_cache in (False, True):
        monkeypatch.setattr(cpu, "_load_cached", lambda value=in_cache: value)
        for error, reason in (
            (ModuleNotFoundError("no"), "it was not built when dyt was installed"),
            (ImportError("undefined symbol"), "it cannot be loaded (undefined symbol)"),
        ):
            errors[:] = [error]
            assert cpu._load() == (None if in_cache else reason)
        errors.clear()
        assert cpu._load() is None
    monkeypatch.setattr(cpu, "_load_cached", lambda: pytest.fail("the installed kernel is used"))
    assert cpu._load() is None
    monkeypatch.setattr(cpu.triton, "REPLACES_CPU_KERNEL", True)
    assert cpu._load() == "DYT_BACKEND=triton and TRITON_INTERPRET=1 replace it by the GPU kernel"


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
    assert run(code, XDG_CACHE_HOME=str(tmp_path)) == "None torch.Size([3])\n"


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
