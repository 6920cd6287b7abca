"""Compilation of GPU kernels for an H100, without a GPU, by the ptxas included in Triton."""

import re
import subprocess
from pathlib import Path
from typing import Any

from dyt.backends import triton_plan


def build(
    kernel: Any,
    types: dict[str, str],
    constants: dict,
    warps: int = triton_plan.THREADS // 32,
    multiples_of_16: tuple[str, ...] = (),
    **options: int,
) -> tuple[str, bytes]:
    """Return PTX and machine code for an H100, specialized as in a launch at aligned addresses.

    Arguments without a type or a constant are integers.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, values, hints = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        type_ = types.get(argument, "i32")
        if argument in constants:
            signature[argument], values[(i,)] = "constexpr", constants[argument]
        elif type_.startswith("tensordesc") or argument not in types:
            signature[argument] = type_
        else:
            signature[argument] = f"*{type_}"
        if signature[argument].startswith("*") or argument in multiples_of_16:
            hints[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, hints)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, **options}
    )
    return compiled.asm["ptx"], compiled.asm["cubin"]


def resources(code: bytes, directory: Path) -> dict[str, int]:
    """Return the registers and bytes of memory that each thread needs."""
    import triton

    file = directory / "kernel.cubin"
    file.write_bytes(code)
    tool = triton.knobs.nvidia.cuobjdump.path
    printed = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}
