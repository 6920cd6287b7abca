"""Text files: documents of .jsonl (also .gz and .zst), .parquet and .txt files, one by one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from matched.data_files import list_files

log = logging.getLogger("matched")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
MAX_BAD_LINES = 1e-4
"""Fraction of the lines of a .jsonl file that may be damaged; they are left out with a warning."""
BLOCK = 1 << 20
"""Compressed bytes read at a time."""


def list_text_files(folder: Path) -> list[Path]:
    """Return all text files below a folder, sorted by path.

    Raises:
        ValueError: if there is no such folder, or no text file in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected one with {', '.join(SUFFIXES)}")
    files = [Path(name) for name in list_files(folder, SUFFIXES)]
    if not files:
        raise ValueError(f"{folder} has no text; expected files that end in {', '.join(SUFFIXES)}")
    return files


def is_held_out(document: str, fraction: float) -> bool:
    """True if a document is held out for validation, which a hash of its text decides."""
    value = hashlib.blake2b(document.encode(), digest_size=8).digest()
    return int.from_bytes(value) < fraction * 2**64


def documents(file: Path, text_field: str) -> Iterator[str]:
    """Yield the documents of a file: lines of .jsonl, rows of .parquet, the whole of a .txt.

    Raises:
        ValueError: naming file and line, if more than ``MAX_BAD_LINES`` of the lines of a .jsonl
            file are no JSON objects with a text; if the file is truncated or not UTF-8, or lacks
            the column; or if a library for its format is not installed.
    """
    name = file.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(file, text_field)
    elif name.endswith(".txt"):
        try:
            yield file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 ({error}); convert it") from None
    else:
        yield from _jsonl(file, text_field)


def _jsonl(file: Path, text_field: str) -> Iterator[str]:
    lines, faults = 0, []
    with file.open("rb") as raw:
        for lines, line in enumerate(_lines(file, raw), 1):
            fault = ""
            try:
                record = json.loads(line)
                text = record.get(text_field) if isinstance(record, dict) else None
                if isinstance(text, str):
                    yield text
                else:
                    fault = f"has no text in the field {text_field!r}"
            except ValueError as error:
                fault = f"is not JSON ({error})"
            if fault and line.strip():
                faults.append(f"{file}, line {lines}, {fault}")
                log.warning("%s; it is left out", faults[-1])
    if len(faults) > MAX_BAD_LINES * lines:
        raise ValueError(
            f"{len(faults)} of the {lines} lines of a file are damaged, and at most one in "
            f"{round(1 / MAX_BAD_LINES):,} may be: {faults[0]}. Correct or delete the file"
        )


def _lines(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed by its suffix."""
    name = file.name.lower()
    if name.endswith(".zst"):
        yield from _split_lines(_zstd_blocks(file, raw))
    elif name.endswith(".gz"):
        try:
            yield from io.BufferedReader(gzip.GzipFile(fileobj=raw))
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{file} is truncated or damaged ({error}); copy it again") from None
    else:
        yield from raw


def _split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of blocks that end anywhere."""
    rest = b""
    for block in blocks:
        *complete, rest = (rest + block).split(b"\n")
        yield from complete
    if rest:
        yield rest


def _zstd_blocks(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    """Yield decompressed blocks of one frame after the other.

    The library's own reader ends without an error where a file is truncated.
    """
    zstandard = _import("zstandard", file)
    decompressor, complete = zstandard.ZstdDecompressor(), True
    frame = decompressor.decompressobj()
    try:
        while block := raw.read(BLOCK):
            while block:
                if frame.eof:
                    frame = decompressor.decompressobj()
                yield frame.decompress(block)
                complete, block = frame.eof, frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"{file} is damaged ({error}); copy it again") from None
    if not complete:
        raise ValueError(f"{file} is truncated: its last frame is incomplete; copy it again")


def _parquet(file: Path, text_field: str) -> Iterator[str]:
    parquet = _import("pyarrow.parquet", file)
    try:
        content = parquet.ParquetFile(file)
    except Exception as error:
        raise ValueError(f"{file} is not a whole parquet file ({error}); copy it again") from None
    if text_field not in content.schema_arrow.names:
        raise ValueError(
            f"{file} has no column {text_field!r}; it has {', '.join(content.schema_arrow.names)}"
        )
    for batch in content.iter_batches(columns=[text_field]):
        for value in batch.column(0):
            text = value.as_py()
            if not isinstance(text, str):
                raise ValueError(
                    f"the column {text_field!r} of {file} has {text!r} where a text was expected"
                )
            yield text


def _import(name: str, file: Path) -> Any:
    """Import an optional library, which only some formats need."""
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ValueError(
            f"{file} needs the package {package}, which is not installed; "
            f"run `pip install {package}`, or convert the file to .jsonl"
        ) from None
