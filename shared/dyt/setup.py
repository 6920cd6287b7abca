"""Build of the optional CPU kernel, which requires torch and a C++ compiler.

The installation succeeds without it: the formula is then used, and `python -m dyt build` builds the
kernel later.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FILE = Path(__file__).parent / "src" / "dyt" / "kernel_build.py"


def load_kernel_build():
    """Import dyt.kernel_build from its file, as dyt is not installed yet."""
    spec = spec_from_file_location("kernel_build", FILE)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


kernel_build = load_kernel_build()


class BuildKernel(build_ext):
    """Compile the kernel, or print one line that it is not built."""

    def run(self) -> None:
        try:
            super().run()
        except kernel_build.KernelBuildError as error:
            self.extensions = []
            print(f"dyt: CPU kernel not built: {error}", file=sys.stderr)

    def build_extension(self, extension: Extension) -> None:
        output = Path(self.get_ext_fullpath(extension.name)).resolve()
        kernel_build.compile_kernel(output, kernel_build.find_torch())


setup(
    # A top-level module; dyt.backends.cpu explains why.
    ext_modules=[Extension(kernel_build.MODULE, [])],
    cmdclass={"build_ext": BuildKernel},
)
