"""Builds the CPU kernel where torch and a C++ compiler are there; the package needs neither."""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

# As torch builds its own kernels: the widest that the machine has is chosen when first called.
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


def without(reason: object) -> None:
    """Say once, in one line, that there is no kernel. Only building says it, not `egg_info`."""
    if {"bdist_wheel", "editable_wheel", "build_ext", "install", "develop"} & set(sys.argv):
        line = " ".join(str(reason).split())
        print(f"dyt: no CPU kernel ({line}); the plain formula is used", file=sys.stderr)


def extension() -> dict:
    """The arguments of `setup` that build the kernel; none where torch is missing."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except Exception as error:  # a torch that is there and broken is as good as none
        without(f"torch is not importable where dyt is built: {error}")
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
                without(error)

        def build_extension(self, extension) -> None:
            def compiled(name: str, machine: list[str]) -> list[str]:
                return self.compiler.compile(
                    [KERNEL],
                    output_dir=str(Path(self.build_temp) / name),
                    macros=[("CPU_CAPABILITY", name), (f"CPU_CAPABILITY_{name}", None)],
                    include_dirs=extension.include_dirs,
                    extra_postargs=[*flags, *machine],
                    depends=extension.depends,
                )

            variants = {"DEFAULT": [], **(X86_FLAGS if x86 else {})}
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for objects in pool.map(compiled, variants, variants.values()):
                    extension.extra_objects += objects
            super().build_extension(extension)

    # The name is dyt.backends.cpu.MODULE, which says what it means.
    # Linked without -fopenmp: the threads have to be those of torch, whatever its library is.
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


setup(**extension())
