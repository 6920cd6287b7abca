"""Build of the optional CPU kernel, which requires torch and a C++ compiler."""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

# The same variants as torch's own kernels; the first call selects the widest the machine supports.
X86_FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": [
        *("-mavx2", "-mfma", "-mf16c"),
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    ],
}
FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
KERNEL = "csrc/kernel.cpp"
HEADERS = ["csrc/kernel.h", "csrc/vectors.h"]


def report_missing_kernel(reason: object) -> None:
    """Print one line that no kernel is built; only in build commands, not in `egg_info`."""
    if {"bdist_wheel", "editable_wheel", "build_ext", "install", "develop"} & set(sys.argv):
        line = " ".join(str(reason).split())
        print(f"dyt: CPU kernel not built ({line}); the plain formula is used", file=sys.stderr)


def extension_arguments() -> dict:
    """Return the arguments of `setup` that build the kernel, or none if torch is missing."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except Exception as error:  # treat a broken torch like a missing one
        report_missing_kernel(f"torch cannot be imported in the build environment: {error}")
        return {}

    linux = platform.system() == "Linux"
    x86 = linux and platform.machine() == "x86_64"
    flags = [*FLAGS, *(["-fopenmp"] if linux else [])]

    class Build(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                self.extensions = []
                report_missing_kernel(error)

        def build_extension(self, extension) -> None:
            def compile_variant(name: str, machine_flags: list[str]) -> list[str]:
                return self.compiler.compile(
                    [KERNEL],
                    output_dir=str(Path(self.build_temp) / name),
                    macros=[("CPU_CAPABILITY", name), (f"CPU_CAPABILITY_{name}", None)],
                    include_dirs=extension.include_dirs,
                    extra_postargs=[*flags, *machine_flags],
                    depends=extension.depends,
                )

            variants = {"DEFAULT": [], **(X86_FLAGS if x86 else {})}
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for objects in pool.map(compile_variant, variants, variants.values()):
                    extension.extra_objects += objects
            super().build_extension(extension)

    # The name must be dyt.backends.cpu.MODULE, where it is explained.
    # Linked without -fopenmp, to use the thread pool of torch, whichever OpenMP library it has.
    kernel = CppExtension(
        "_dyt_cpu_2",
        ["csrc/dyt_cpu.cpp"],
        depends=[KERNEL, *HEADERS],
        define_macros=[("DYT_X86", None)] if x86 else [],
        extra_compile_args=flags,
    )
    return {
        "ext_modules": [kernel],
        "cmdclass": {"build_ext": Build.with_options(use_ninja=False)},
    }


setup(**extension_arguments())
