"""Compilation of the CPU kernel, for installation and for `python -m dyt build`.

Needs torch's headers, Python's headers and a C++ compiler, but neither setuptools nor ninja. This
module imports no torch: while a package is being installed, torch is often outside the build
environment, and `find_torch` asks the interpreter without that environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# The number changes with the operators' schemas, so that an older copy of dyt cannot load a kernel
# built for different schemas. dyt_cpu.cpp has the same name.
MODULE = "_dyt_cpu_2"
SOURCES = Path(__file__).parent / "csrc"
# The same variants as torch's own kernels; the first call selects the widest the machine supports.
X86_FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": [
        *("-mavx2", "-mfma", "-mf16c"),
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    ],
}
FLAGS = ["-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-DNDEBUG"]
WARNINGS = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]


def _standard(torch_version: str) -> str:
    """Return the compiler's flag for the C++ standard: the headers of torch 2.14 need C++20."""
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    return "-std=c++20" if (major, minor) >= (2, 12) else "-std=c++17"


class KernelBuildError(RuntimeError):
    """The kernel cannot be built, with the reason in one line."""


@dataclass(frozen=True, kw_only=True)
class TorchInstallation:
    """The torch to build for: its folder, version and C++ standard library ABI."""

    folder: str
    version: str
    cxx11_abi: bool


_ASK_TORCH = (
    "import json, torch;"
    " print(json.dumps([torch.__path__[0], torch.__version__, torch._C._GLIBCXX_USE_CXX11_ABI]))"
)


def find_torch() -> TorchInstallation:
    """Return the torch of this interpreter, also from within pip's isolated build environment.

    Raises:
        KernelBuildError: torch cannot be imported.
    """
    # pip isolates a build by PYTHONPATH; without it the interpreter has its own packages.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for environment in (os.environ, own):
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], env=environment, capture_output=True, text=True
        )
        if answer.returncode == 0:
            folder, version, abi = json.loads(answer.stdout.splitlines()[-1])
            return TorchInstallation(folder=folder, version=version, cxx11_abi=abi)
    reason = (answer.stderr.strip().splitlines() or ["no output"])[-1]
    raise KernelBuildError(f"torch cannot be imported: {reason}")


def cached_kernel(torch_version: str) -> Path:
    """Return the path of the kernel that `python -m dyt build` makes, whether it exists or not.

    It depends on the versions of Python and torch, the machine and the kernel's source.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.read_bytes())
    tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    folder = f"{MODULE}-torch{torch_version}-{tag}-{digest.hexdigest()[:12]}"
    return cache / "dyt" / folder / f"{MODULE}.so"


def build_into_cache() -> Path:
    """Compile the kernel into the user's cache and return its path.

    Raises:
        KernelBuildError: torch, Python's headers or a compiler are missing, compilation fails, or
            the cache cannot be written.
    """
    torch = find_torch()
    try:
        output = cached_kernel(torch.version)
        output.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise KernelBuildError(
            f"the cache folder cannot be written ({error}); set XDG_CACHE_HOME to one that can"
        ) from None
    compile_kernel(output, torch)
    return output


def compile_kernel(output: Path, torch: TorchInstallation) -> None:
    """Compile the kernel; `output` is complete or unchanged, also if several processes do this.

    Raises:
        KernelBuildError: Python's headers or a compiler are missing, or compilation fails.
    """
    compiler = _find_compiler()
    python_headers = sysconfig.get_path("include")
    if not (Path(python_headers) / "Python.h").is_file():
        version = "{}.{}".format(*sys.version_info)
        raise KernelBuildError(
            f"Python's headers are missing in {python_headers}. Install them, such as"
            f" python{version}-dev on Debian and Ubuntu."
        )
    headers = Path(torch.folder) / "include"
    x86 = platform.system() == "Linux" and platform.machine() == "x86_64"
    common = [
        *compiler,
        *FLAGS,
        _standard(torch.version),
        *WARNINGS,
        *(f"-I{path}" for path in (headers, headers / "torch/csrc/api/include", python_headers)),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.cxx11_abi)}",
        f"-DTORCH_EXTENSION_NAME={MODULE}",
    ]
    openmp = ["-fopenmp"] if platform.system() == "Linux" else []
    jobs = {"dyt_cpu": [*common, *(["-DDYT_X86"] if x86 else []), str(SOURCES / "dyt_cpu.cpp")]}
    for name, flags in {"DEFAULT": [], **(X86_FLAGS if x86 else {})}.items():
        macros = [f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}"]
        jobs[name] = [*common, *openmp, *flags, *macros, str(SOURCES / "kernel.cpp")]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = [f"{folder}/{name}.o" for name in jobs]
        commands = [
            [*job, "-c", "-o", target] for job, target in zip(jobs.values(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        library = f"{folder}/{MODULE}.so"
        _run(_link_command(compiler, objects, library, torch))
        os.replace(library, output)


def _link_command(
    compiler: list[str], objects: list[str], library: str, torch: TorchInstallation
) -> list[str]:
    """Return the command that links the kernel.

    Without -fopenmp: it uses the thread pool of torch, whichever OpenMP library that has.
    """
    shared = ["-shared"]
    if platform.system() == "Darwin":
        shared = ["-bundle", "-undefined", "dynamic_lookup"]
    libraries = [f"-L{torch.folder}/lib", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    return [*compiler, *shared, *objects, *libraries, "-o", library]


def _find_compiler() -> list[str]:
    if platform.system() == "Windows":
        raise KernelBuildError("the CPU kernel is not supported on Windows")
    command = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(command[0]) is None:
        raise KernelBuildError(
            f"there is no C++ compiler ({command[0]}). Install one, such as g++ on Debian and"
            " Ubuntu, or name yours in the environment variable CXX."
        )
    return command


def _run(command: list[str]) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if answer.returncode:
        lines = answer.stderr.splitlines()
        errors = [line.strip() for line in lines if "error" in line.lower()]
        reason = (errors or lines or [f"exit code {answer.returncode}"])[0]
        raise KernelBuildError(f"the C++ compiler {command[0]} fails: {reason}")
