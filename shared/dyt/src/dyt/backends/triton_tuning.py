"""Tuning of the GPU kernels: the values in use, and variants to be measured."""

from __future__ import annotations

from dataclasses import dataclass

from dyt.backends import triton_plan


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the work is divided, and how tanh is computed in bfloat16.

    Attributes:
        threads: of a program.
        steps: pieces of 16 bytes that a thread reads at a time, forward.
        steps_backward: the same backward; None for `triton_plan.STEPS_BACKWARD` of the method.
        programs: programs per multiprocessor, forward. With so many that each has one tile, the
            kernel is not persistent.
        programs_backward: the same backward.
        tanh: "approximate", "exp2" or "rational" for the method in bfloat16; None for the default.
    """

    threads: int = triton_plan.THREADS
    steps: int = triton_plan.STEPS
    steps_backward: int | None = None
    programs: int = triton_plan.PROGRAMS
    programs_backward: int = triton_plan.PROGRAMS_BACKWARD
    tanh: str | None = None


# Candidates, until a measurement on a card decides; see benchmarks/gpu_sections/variants.py.
VARIANTS = {
    "default": Tuning(),
    "2 steps": Tuning(steps=2, steps_backward=2),
    "8 steps": Tuning(steps=8, programs=4),
    "256 threads": Tuning(threads=256, programs=4, programs_backward=2),
    "12 programs": Tuning(steps=2, programs=12, steps_backward=2, programs_backward=6),
    "one tile": Tuning(programs=2**20),
    "tanh by exp2": Tuning(tanh="exp2"),
    "tanh rational": Tuning(tanh="rational"),
}
