"""Preparation: a task that checks genomes and benchmark tasks, once for all runs that read them.

Its run directory has

- genome/index.fai and genome/intervals.bed, and genome/genome.fa if the FASTA was made or unpacked;
- benchmarks/<task>.npz for every benchmark task, and tasks/<task>/ if the tasks were made.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dyt_hyenadna import arabidopsis, benchmark_files, synthetic_genome
from dyt_hyenadna.benchmark_files import PACK_FOLDER
from dyt_hyenadna.genome import GZIP_SUFFIX, Genome, index_fasta, unpack
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.intervals import (
    SPLITS,
    Interval,
    count_overlaps,
    make_intervals,
    match_to_genome,
    read_bed,
    write_bed,
)
from dyt_hyenadna.preparation_config import BENCHMARK_SOURCES, GENOME_SOURCES, Preparation
from dyt_hyenadna.sources import genome_files, hg38_files
from matched import signals
from matched.data_files import list_folders
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group

log = logging.getLogger("matched")
GENOME_FOLDER = "genome"
FASTA_FILE = "genome.fa"
INDEX_FILE = "index.fai"
BED_FILE = "intervals.bed"
TASK_FOLDER = "tasks"


def prepare(context: Context, config: Preparation) -> Outcome:
    """Check the data and write what the runs that need it read.

    Raises:
        ValueError: if the data cannot be used.
        Interrupted: if the process was asked to stop.
    """
    with process_group(context):
        return on_rank0(lambda: _prepare(context, config))


def _prepare(context: Context, config: Preparation) -> Outcome:
    folder, tasks = context.owned_path(GENOME_FOLDER), context.owned_path(TASK_FOLDER)
    details: dict[str, Any] = {}
    if config.data == "synthetic-genome":
        synthetic_genome.write_genome(folder, FASTA_FILE, BED_FILE, config.shuffle_seed)
        synthetic_genome.write_tasks(tasks, config.shuffle_seed)
    if config.data in GENOME_SOURCES:
        genome, intervals, warnings = _prepare_genome(context, config, folder)
        details |= {"records": len(genome.lengths), **genome.count_letters(_check_signals)}
        details |= {f"{split}_intervals": len(intervals[split]) for split in SPLITS}
        details["warnings"] = warnings
    if config.data == "arabidopsis":
        arabidopsis.write_tasks(tasks, genome, config.shuffle_seed, _check_signals)
    if config.data in BENCHMARK_SOURCES:
        packed = _pack_tasks(context, config, context.data.get(config.data, tasks))
        details |= {**packed, "warnings": [*details.get("warnings", []), *packed["warnings"]]}
    return Outcome(metrics={}, steps=0, details=details)


def _prepare_genome(
    context: Context, config: Preparation, folder: Path
) -> tuple[Genome, dict[str, list[Interval]], list[str]]:
    """Index the FASTA and write the intervals; return both, and warnings."""
    folder.mkdir(exist_ok=True)
    fasta, bed = folder / FASTA_FILE, None
    if (path := context.data.get(config.data)) is not None:
        source, bed = _source_files(config.data, path)
        if source.suffix != GZIP_SUFFIX:
            fasta = source
        elif not fasta.exists():
            log.info("unpacking %s", source)
            unpack(source, fasta, _check_signals)
    elif config.data == "synthetic-genome":
        bed = folder / BED_FILE
    elif not fasta.exists():
        arabidopsis.write_fasta(fasta, _check_signals)
    index_fasta(fasta, folder / INDEX_FILE)
    genome = Genome(fasta, folder / INDEX_FILE)
    if config.data == "arabidopsis":
        intervals = arabidopsis.pretraining_intervals(genome.lengths, config.shuffle_seed)
    elif bed is not None:
        intervals = match_to_genome(read_bed(bed), genome, bed)
    else:
        intervals = make_intervals(genome, config.held_out, config.shuffle_seed)
    write_bed(folder / BED_FILE, intervals)
    log.info("%s has %d records", fasta.name, len(genome.lengths))
    overlaps = count_overlaps(intervals)
    warning = (
        f"{overlaps:,} intervals of {(bed or fasta).name} overlap one of another split, so "
        "held-out windows have bases of the training"
    )
    return genome, intervals, [warning] if overlaps else []


def _pack_tasks(context: Context, config: Preparation, folder: Path) -> dict[str, Any]:
    """Pack every task in a folder; report its defects as warnings."""
    packs = context.owned_path(PACK_FOLDER)
    packs.mkdir(exist_ok=True)
    tasks = TASKS if config.data == "genomic-benchmarks" else list_folders(folder)
    warnings: list[str] = []
    sequences = {}
    for number, name in enumerate(tasks):
        context.write_progress(number, len(tasks))
        made = tuple(list_folders(folder / name / "train"))
        classes = TASKS[name].classes if config.data == "genomic-benchmarks" else made
        task = benchmark_files.read_task(folder / name, classes, _check_signals)
        warnings += benchmark_files.defects(name, task)
        benchmark_files.pack(task, packs / f"{name}.npz")
        sequences[name] = {split: len(content.labels) for split, content in task.splits.items()}
    return {"sequences": sequences, "warnings": warnings}


def _check_signals() -> None:
    if signals.stop_signal() is not None:
        raise signals.Interrupted


def load_genome(
    directory: Path, source: str, path: Path | None
) -> tuple[Genome, dict[str, list[Interval]]]:
    """Open the genome of a preparation's run directory, with its intervals.

    Args:
        directory: the preparation's run directory.
        source: name of the data source.
        path: path of the source in site.toml; None for embedded data.

    Raises:
        ValueError: if the FASTA was changed since, or a file of the preparation is missing.
    """
    folder = directory / GENOME_FOLDER
    fasta = folder / FASTA_FILE
    if path is not None and not fasta.exists():
        fasta = _source_files(source, path)[0]
    try:
        return Genome(fasta, folder / INDEX_FILE), read_bed(folder / BED_FILE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error}; restore it, or delete {directory} and submit again to prepare the genome "
            "again"
        ) from None


def _source_files(source: str, path: Path) -> tuple[Path, Path | None]:
    return hg38_files(path) if source == "hg38" else genome_files(path)
