"""Sections of the GPU benchmark, in their order; each is a module with a function `parts`.

A section is a list of parts. A part returns rows of the section's CSV file, and these are written
when the part is whole, so that a stop at any instant loses one part at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A unit of measurement that is written, and skipped by later calls, as a whole.

    Attributes:
        name: unique in its section.
        measure: returns the rows, each with the section's columns or a part of them.
        in_folder: True if ``measure`` takes the output folder, to keep files of its own there.
        limit: seconds after which the part has failed.
        requires: modules that must be importable; the part is left out without them.
        gigabytes: memory of the card that the part needs; it is left out if the card has less.
    """

    name: str
    measure: Callable[..., list[Row]]
    in_folder: bool = False
    limit: float = 60
    requires: tuple[str, ...] = ()
    gigabytes: float = 1


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section: its module below this package, its title, and its share of the time.

    Attributes:
        share: relative to the other sections; time that a section leaves goes to the later ones.
        is_parallel: True if it measures no times, so that several processes may share the card.
        fills_caches: True if several processes run its parts once before they are timed, for the
            compilers' caches on disk: most of the section's time is compilation otherwise.
    """

    name: str
    title: str
    share: float
    is_parallel: bool = False
    fills_caches: bool = False


SECTIONS = (
    Section(name="floors", title="Card, versions and floors", share=5),
    Section(name="correctness", title="Correctness", share=14, is_parallel=True),
    Section(name="layer_times", title="Layers against their peers", share=20, fills_caches=True),
    Section(
        name="variants",
        title="Variants of the kernels, and fusions",
        share=16,
        fills_caches=True,
    ),
    Section(name="latency", title="Latency of LLaMA 7B (CVPR 2025, Table 7)", share=14),
    Section(name="step_times", title="Training steps", share=15),
    Section(name="tables", title="Runs of tables through the harness", share=9),
    Section(name="mini", title="Rows of tables at mini scale", share=7),
)
