"""FASTA files: index, names of chromosomes, and reads that fail instead of returning fewer bases.

pyfaidx indexes the file. Its index is put in a folder of the caller, because the data may be on a
read-only file system. An index is trusted only if the FASTA has the size for which it was made,
each record begins where it says, and a sample of the file is the same: chosen by modification time
alone, the index of a file that was cut short afterwards would give fewer bases without an error.

Bases are read with ``os.pread``, which has no position that processes could share: a handle that is
open before a fork, as in the workers of a DataLoader, would otherwise mix up their reads.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyfaidx

from matched.data_files import refuse_pointer
from matched.files import atomic_write, read_json, write_json

log = logging.getLogger("matched")
GZIP_SUFFIX = ".gz"
BLOCK = 1 << 24
"""Bytes copied at a time."""
LETTERS = b"ACGTNRYSWKMBDHVU"
"""Letters of a sequence: bases, N, IUPAC's codes for ambiguous bases, and U."""
HASHED_BLOCKS, HASHED_BLOCK = 16, 1 << 12
"""Number of blocks of a FASTA that are hashed, at equal distances, and bytes of each."""
HEADERS = (1 << 12, 1 << 20)
"""Bytes in which a record's description is looked for: usually enough, and at most."""
MAX_NAMES = 3
"""Names listed in a message about many."""
MITOCHONDRION = {"chrM": "MT", "M": "MT", "chrMT": "MT"}
"""Names that UCSC and Ensembl use for the mitochondrial chromosome."""


class Record(NamedTuple):
    """Line of an index.

    Attributes:
        length: bases.
        offset: of the first base in the file.
        line_bases: bases of a line.
        line_bytes: bytes of a line, with its end.
    """

    length: int
    offset: int
    line_bases: int
    line_bytes: int

    def position(self, base: int) -> int:
        """Return where a base is in the file."""
        return self.offset + base // self.line_bases * self.line_bytes + base % self.line_bases


class Genome:
    """The sequences of an indexed FASTA file.

    Args:
        fasta: uncompressed FASTA file.
        index: index that ``index_fasta`` wrote for it.

    Attributes:
        lengths: name → number of bases of every record, in the order of the file.

    Raises:
        ValueError: if there is no such index, or it was made for another file.
    """

    def __init__(self, fasta: Path, index: Path) -> None:
        self.fasta, self.index = fasta, index
        _check_index(fasta, index)
        self._records = _read_index(index)
        self.lengths: Mapping[str, int] = {
            name: record.length for name, record in self._records.items()
        }
        self._aliases = {_common_name(name): name for name in self.lengths}
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def find(self, chromosome: str) -> str | None:
        """Return the record with this name, with or without "chr"; None if there is none."""
        if chromosome in self.lengths:
            return chromosome
        return self._aliases.get(_common_name(chromosome))

    def read(self, chromosome: str, start: int, end: int) -> str:
        """Return the bases from ``start`` to before ``end``, counted from 0, in the file's case.

        Raises:
            ValueError: if there is no such record, the range is not in it, or the file changed.
        """
        name = self.find(chromosome)
        if name is None:
            raise ValueError(
                f"{self.fasta} has no record {chromosome!r}; its records are {some(self.lengths)}"
            )
        if not 0 <= start <= end <= self.lengths[name]:
            raise ValueError(
                f"bases {start} to {end} of {name} were asked for, and {self.fasta} has "
                f"{self.lengths[name]} there"
            )
        if self._file is None:
            self._file = io.FileIO(self.fasta)
        record = self._records[name]
        first, last = record.position(start), record.position(end)
        letters = os.pread(self._file.fileno(), last - first, first).translate(None, b"\r\n")
        if len(letters) != end - start:
            raise ValueError(
                f"{self.fasta} was changed while it was read: {name} ends before base {end}"
            )
        return letters.decode("latin-1")

    def count_letters(self, check: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Return the number of bases, of lower case, of N and of other letters for ambiguous bases.

        Args:
            check: called after each block; it may raise an error to stop.

        Raises:
            ValueError: if there is a character that is no letter of a DNA sequence.
        """
        counts = [0] * 256
        for name, length in self.lengths.items():
            for start in range(0, length, BLOCK):
                check()
                block = self.read(name, start, min(start + BLOCK, length)).encode("latin-1")
                if odd := block.translate(None, LETTERS + LETTERS.lower()):
                    raise ValueError(
                        f"{self.fasta} has {odd[:1].decode('latin-1')!r} in the record {name}; "
                        "expected a FASTA of DNA, with the letters "
                        f"{LETTERS.decode()} in either case"
                    )
                for letter in LETTERS + LETTERS.lower():
                    counts[letter] += block.count(letter)
        upper = {letter: counts[letter] + counts[letter | 0x20] for letter in LETTERS}
        return {
            "bases": sum(upper.values()),
            "lower_case": sum(counts[letter] for letter in LETTERS.lower()),
            "n": upper[ord("N")],
            "ambiguous": sum(count for letter, count in upper.items() if letter not in b"ACGTN"),
        }


def _common_name(chromosome: str) -> str:
    return MITOCHONDRION.get(chromosome, chromosome.removeprefix("chr"))


def some(names: Iterable[str], most: int = MAX_NAMES) -> str:
    """Return the first names as "a, b, c, …"."""
    names = list(names)
    return ", ".join([*names[:most], "…"] if len(names) > most else names)


def index_fasta(fasta: Path, index: Path) -> None:
    """Index a FASTA file; the index appears only when it is complete.

    A JSON file next to ``index`` has the size of the FASTA and a hash of a sample of it. An index
    that a tool left next to the FASTA is not used.

    Raises:
        ValueError: if the file is not a FASTA file with lines of one length, a record is empty or
            two have one name, or the file is a pointer of git-lfs or git-annex.
        OSError: if it cannot be read.
    """
    refuse_pointer(fasta)
    size = fasta.stat().st_size
    _check_line_ends(fasta)
    with atomic_write(index) as temporary:
        try:
            with pyfaidx.Fasta(str(fasta), indexname=str(temporary)) as records:
                lengths = {name: record.rlen for name, record in records.faidx.index.items()}
        except UnicodeDecodeError:
            raise ValueError(
                f"{fasta} is not a text file; expected FASTA, uncompressed or with the ending "
                f"{GZIP_SUFFIX}"
            ) from None
        except (pyfaidx.FastaIndexingError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, RuntimeError):  # pyfaidx asks to report it as a fault of its own
                reason = "blank lines, or lines of different lengths, in or after its last record"
            raise ValueError(
                f"{fasta} cannot be indexed ({reason}); expected FASTA with lines of one length "
                "in a record, and different names"
            ) from None
        _check_records(fasta, lengths)
    write_json(_size_file(index), {"size": size, "sample": _hash_sample(fasta, size)})


def _check_line_ends(fasta: Path) -> None:
    with fasta.open("rb") as file:
        start = file.read(HEADERS[-1])
    if b"\r" in start and b"\n" not in start:
        raise ValueError(
            f"{fasta} has carriage returns as line ends; expected line feeds: convert it with "
            "`tr '\\r' '\\n'`"
        )


def _hash_sample(fasta: Path, size: int) -> str:
    """Return a hash of blocks at equal distances, the first and the last of the file among them."""
    digest = hashlib.blake2b(digest_size=16)
    with fasta.open("rb") as file:
        for number in range(HASHED_BLOCKS):
            file.seek(number * max(0, size - HASHED_BLOCK) // (HASHED_BLOCKS - 1))
            digest.update(file.read(HASHED_BLOCK))
    return digest.hexdigest()


def _check_records(fasta: Path, lengths: Mapping[str, int]) -> None:
    if empty := [name for name, length in lengths.items() if not length]:
        raise ValueError(
            f"{fasta} has {len(empty)} records without bases ({some(empty)}); it may be cut short: "
            "restore it, or delete these records"
        )
    with fasta.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            log.warning("%s does not end with a line end; it may be cut short", fasta)


def _size_file(index: Path) -> Path:
    return index.with_name(index.name + ".json")


def _read_index(index: Path) -> dict[str, Record]:
    lines = index.read_text(encoding="utf-8").splitlines()
    columns = [line.split("\t") for line in lines]
    return {name: Record(*map(int, numbers)) for name, *numbers in columns}


def _check_index(fasta: Path, index: Path) -> None:
    recorded = read_json(_size_file(index), ("size", "sample")) if index.is_file() else None
    if recorded is None:
        raise ValueError(f"there is no complete index {index} of {fasta}")
    try:
        size = fasta.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"there is no file {fasta}") from None
    if size != recorded["size"]:
        change = "was cut short" if size < recorded["size"] else "was replaced"
        raise ValueError(
            f"{fasta} {change}: it has {size:,} bytes, and the index {index} was made for "
            f"{recorded['size']:,}"
        )
    with fasta.open("rb") as file:
        for name, record in _read_index(index).items():
            header = _read_header(file, record.offset)
            if header[:1] != b">" or header[1:].split()[:1] != [name.encode()]:
                raise ValueError(
                    f"{fasta} was replaced: the record {name} is not where the index {index} has it"
                )
    if _hash_sample(fasta, size) != recorded["sample"]:
        raise ValueError(
            f"{fasta} was replaced: it has the size for which the index {index} was made, but "
            "other contents"
        )


def _read_header(file: BinaryIO, offset: int) -> bytes:
    """Return the line that ends at an offset, or the last bytes of a longer one."""
    for size in HEADERS:
        start = max(0, offset - size)
        file.seek(start)
        _, line_end, header = file.read(offset - start).rstrip(b"\r\n").rpartition(b"\n")
        if line_end:
            break
    return header


def unpack(archive: Path, fasta: Path, check: Callable[[], None] = lambda: None) -> None:
    """Unpack a FASTA file with gzip or bgzip, which cannot be read at random.

    Args:
        archive: file to read.
        fasta: file to write; it appears only when it is complete.
        check: called before each block; it may raise an error to stop.

    Raises:
        ValueError: if the archive is damaged or cut short, or is a pointer.
        OSError: if the disk is full.
    """
    refuse_pointer(archive)
    with atomic_write(fasta) as temporary, temporary.open("wb") as target:
        try:
            with gzip.open(archive) as source:
                while block := source.read(BLOCK):
                    check()
                    target.write(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{archive} is damaged or cut short ({error}); download it again"
            ) from None
