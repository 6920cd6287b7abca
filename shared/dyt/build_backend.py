"""Build backend of dyt (PEP 517 and 660): wheels with the CPU kernel inside.

It needs the standard library alone, so `pip install` works in any environment, with and without
build isolation. The kernel is compiled if torch and a C++ compiler are there; otherwise one line
says why it is not, and the wheel contains Python files only.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent
SOURCE = ROOT / "src"
IGNORED = ("__pycache__", ".egg-info")


def build_wheel(directory: str, config_settings=None, metadata_directory=None) -> str:
    """Write a wheel of the package and return its name."""
    files = {str(file.relative_to(SOURCE)): file.read_bytes() for file in _source_files()}
    return _write_wheel(directory, files)


def build_editable(directory: str, config_settings=None, metadata_directory=None) -> str:
    """Write a wheel that refers to the source folder and return its name."""
    return _write_wheel(directory, {"__editable__.dyt.pth": f"{SOURCE}\n".encode()})


def build_sdist(directory: str, config_settings=None) -> str:
    """Write an archive of the source and return its name."""
    name = f"dyt-{_project()['version']}"
    with tarfile.open(Path(directory) / f"{name}.tar.gz", "w:gz") as archive:
        top = [ROOT / file for file in ("pyproject.toml", "README.md", Path(__file__).name)]
        for file in [*top, *_source_files()]:
            archive.add(file, f"{name}/{file.relative_to(ROOT)}")
        with tempfile.NamedTemporaryFile() as metadata:
            metadata.write(_metadata())
            metadata.flush()
            archive.add(metadata.name, f"{name}/PKG-INFO")
    return f"{name}.tar.gz"


def prepare_metadata_for_build_wheel(directory: str, config_settings=None) -> str:
    """Write the metadata alone, for pip to read before anything is compiled."""
    folder = Path(directory) / _dist_info()
    folder.mkdir()
    (folder / "METADATA").write_bytes(_metadata())
    return folder.name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def _source_files() -> list[Path]:
    return sorted(
        file
        for file in (SOURCE / "dyt").rglob("*")
        if file.is_file() and not any(part.endswith(IGNORED) for part in file.parts)
    )


def _write_wheel(directory: str, files: dict[str, bytes]) -> str:
    project = _project()
    kernel = _compile_kernel()
    tag = "py3-none-any"
    if kernel:
        python = "cp{}{}".format(*sys.version_info)
        system = re.sub("[-.]", "_", sysconfig.get_platform())
        # Free-threaded and debug builds have an ABI of their own, such as cp313t.
        tag = f"{python}-{python}{sys.abiflags}-{system}"
    wheel = f"Wheel-Version: 1.0\nGenerator: dyt\nRoot-Is-Purelib: {str(not kernel).lower()}\n"
    files = {
        **files,
        **kernel,
        f"{_dist_info()}/METADATA": _metadata(),
        f"{_dist_info()}/WHEEL": f"{wheel}Tag: {tag}\n".encode(),
    }
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{_dist_info()}/RECORD"] = f"{record}{_dist_info()}/RECORD,,\n".encode()
    name = f"dyt-{project['version']}-{tag}.whl"
    with zipfile.ZipFile(Path(directory) / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return name


def _compile_kernel() -> dict[str, bytes]:
    """Return the kernel by its file name, or nothing if it cannot be compiled."""
    kernel_build = _load_kernel_build()
    name = kernel_build.MODULE + sysconfig.get_config_var("EXT_SUFFIX")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / name
        try:
            kernel_build.compile_kernel(output, kernel_build.find_torch())
        except kernel_build.KernelBuildError as error:
            print(f"dyt: CPU kernel not built: {error}", file=sys.stderr)
            return {}
        return {name: output.read_bytes()}


def _load_kernel_build() -> ModuleType:
    """Import dyt.kernel_build from its file, as dyt is not installed yet."""
    spec = spec_from_file_location("kernel_build", SOURCE / "dyt" / "kernel_build.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _project() -> dict:
    """Return the table [project] of pyproject.toml, whose values are strings and lists of them.

    Python 3.10 cannot read TOML.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.split("[project]\n")[1].split("\n[")[0]
    lines = re.findall(r'^([\w-]+) = (".*"|\[.*\])$', table, re.MULTILINE)
    return {key: ast.literal_eval(value) for key, value in lines}


def _metadata() -> bytes:
    project = _project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
        "Description-Content-Type: text/markdown",
    ]
    readme = (ROOT / project["readme"]).read_text(encoding="utf-8")
    return ("\n".join(lines) + "\n\n" + readme).encode()


def _dist_info() -> str:
    return f"dyt-{_project()['version']}.dist-info"


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
