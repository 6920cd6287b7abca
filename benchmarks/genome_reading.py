"""Reading random windows of genomes: time, memory, and correctness in several processes.

    python benchmarks/genome_reading.py [--rounds 20] [--folder FOLDER] [--save]

Two files are generated in a temporary folder. "sparse" has 24 records and 3.1 gigabases, of which
the file system stores almost nothing; FASTA has a line end every few bases, which a sparse file
cannot have, so each record is one line. "lines" has 4 records of random bases, 240 megabases in
lines of 60. Windows of 1,024 bases are read as ``GenomeWindows`` gives them to a training loop: ids
in int64, with N as [PAD]. A round is 1,000 windows; the first round is not counted. Files are in
the page cache. Memory is the growth of the process's largest size over all counted rounds. Two
worker processes of a DataLoader read the windows of "lines", which are compared with the bases in
memory. With --save, each file is a row of results/genome_reading.csv.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import measuring
import numpy as np
import torch
from torch.utils.data import DataLoader

from dyt_hyenadna.datasets import GenomeWindows
from dyt_hyenadna.genome import Genome, index_fasta
from dyt_hyenadna.intervals import Interval, Windows
from dyt_hyenadna.tokenizer import encode

CSV = measuring.RESULTS / "genome_reading.csv"
LENGTH = 1024
WINDOWS = 1000
SPARSE_RECORDS, SPARSE_BASES = 24, 130_000_000
RECORDS, BASES, LINE = 4, 60_000_000, 60


def write_sparse(path: Path) -> None:
    """Write a FASTA whose bases are holes of the file, which read as zeros."""
    with path.open("wb") as file:
        for number in range(SPARSE_RECORDS):
            file.write(f">chr{number + 1}\n".encode())
            file.seek(SPARSE_BASES, 1)
            file.write(b"\n")


def write_lines(path: Path) -> np.ndarray:
    """Write a FASTA of random bases; return the bases, shape ``(RECORDS, BASES)``."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(4, size=(RECORDS, BASES))]
    ends = np.full((BASES // LINE, 1), ord("\n"), np.uint8)
    with path.open("wb") as file:
        for number in range(RECORDS):
            file.write(f">chr{number + 1}\n".encode())
            file.write(np.hstack([letters[number].reshape(-1, LINE), ends]).tobytes())
    return letters


def random_windows(genome: Genome) -> GenomeWindows:
    """Return windows at random positions of all records."""
    rng = np.random.default_rng(1)
    names = list(genome.lengths)
    intervals = [
        Interval(name, start, start + LENGTH)
        for name, share in zip(
            rng.choice(names, 50 * WINDOWS), rng.random(50 * WINDOWS), strict=True
        )
        for start in [int(share * (genome.lengths[name] - LENGTH))]
    ]
    return GenomeWindows(genome, Windows(intervals, genome.lengths, LENGTH))


def peak_memory() -> float:
    """Return the largest size of this process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, path: Path, rounds: int) -> tuple[dict, GenomeWindows]:
    """Index a file and time rounds of windows."""
    index = path.with_name(path.name + ".index")
    start = time.process_time()
    index_fasta(path, index)
    index_seconds = time.process_time() - start
    data = random_windows(Genome(path, index))
    times: list[float] = []
    for number in range(rounds + 1):
        start = time.process_time()
        for position in range(WINDOWS):
            data[(number * WINDOWS + position) % len(data)]
        times.append(1000 * (time.process_time() - start))
        if number == 0:
            before = peak_memory()
    p10, median, p90 = measuring.percentiles(times[1:])
    row = {
        "file": name,
        "bases": sum(data.genome.lengths.values()),
        "bytes_on_disk": path.stat().st_blocks * 512,
        "index_s": f"{index_seconds:.1f}",
        "rounds": rounds,
        "cpu_ms_p10": f"{p10:.1f}",
        "cpu_ms_median": f"{median:.1f}",
        "cpu_ms_p90": f"{p90:.1f}",
        "memory_growth_mib": f"{peak_memory() - before:.1f}",
    }
    return row, data


def wrong_windows(data: GenomeWindows, letters: np.ndarray, workers: int) -> int:
    """Return how many windows that worker processes read differ from the bases."""
    data[0]  # the file is open when the workers fork
    wrong = 0
    loader = DataLoader(data, batch_size=100, num_workers=workers)
    for batch, ids in enumerate(loader):
        for position, window in enumerate(ids):
            name, start, end = data.windows.cut_window(batch * 100 + position)
            expected = encode(letters[int(name.removeprefix("chr")) - 1, start:end].tobytes())
            wrong += not torch.equal(window, torch.from_numpy(expected.astype(np.int64)))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=measuring.positive_int, default=20)
    parser.add_argument("--folder", type=Path, help="where to write the files (0.3 GB)")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_sparse(folder / "sparse.fa")
        rows.append(measure("sparse", folder / "sparse.fa", arguments.rounds)[0])
        letters = write_lines(folder / "lines.fa")
        row, data = measure("lines", folder / "lines.fa", arguments.rounds)
        rows.append(row)
        wrong = wrong_windows(data, letters, workers=2)
    for row in rows:
        row["wrong_in_workers"] = wrong if row["file"] == "lines" else ""
        row.update(measuring.environment("cpu"))
        print(row)
    if arguments.save:
        measuring.append(CSV, rows)


if __name__ == "__main__":
    main()
