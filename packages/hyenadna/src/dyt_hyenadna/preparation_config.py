"""Config of a preparation of genomes and benchmark tasks; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from dyt_hyenadna.intervals import HeldOut
from matched.checks import check_choice

GENOME_SOURCES = ("synthetic-genome", "hg38", "genome", "arabidopsis")
BENCHMARK_SOURCES = ("synthetic-genome", "arabidopsis", "genomic-benchmarks")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Check of the data, shared by all arms and seeds.

    A preparation of a genome indexes the FASTA and writes the intervals for training, validation
    and test. One of "genomic-benchmarks" reads every sequence and packs each task. Those of
    "synthetic-genome" and "arabidopsis" make both first.

    Attributes:
        data: name of a source, see ``sources``.
        shuffle_seed: seed of the held-out chromosomes, or of the synthetic genome.
        held_out: intervals of a genome without a BED file; ignored otherwise.
    """

    data: str
    shuffle_seed: int = 0
    held_out: HeldOut = field(default_factory=HeldOut)

    def __post_init__(self) -> None:
        check_choice(self, "data", tuple(dict.fromkeys((*GENOME_SOURCES, *BENCHMARK_SOURCES))))
