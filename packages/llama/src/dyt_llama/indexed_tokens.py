"""Token files in Megatron's indexed format: a .bin file of token ids, and an .idx file beside it.

Megatron-LM, NeMo and datatrove read and write the same files (Megatron-LM,
megatron/core/datasets/indexed_dataset.py). The .bin file has the tokens of all documents one after
the other. The .idx file has: the 9 bytes "MMIDIDX", 0, 0; the version 1 as uint64; a code for the
type of the ids as uint8; the numbers of sequences and of document boundaries as uint64; for every
sequence its length as int32; for every sequence its first byte in the .bin file as int64; and the
first sequence of every document, and the number of sequences, as int64. Here every document is one
sequence. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
CODES: dict[int, Any] = {4: np.dtype("<i4"), 5: np.dtype("<i8"), 8: np.dtype("<u2")}
"""Code → type of the ids, as far as ids have it."""
LARGEST_UINT16 = 65_500
"""Vocabularies of fewer pieces are stored as uint16, as Megatron does."""

Ids = npt.NDArray[Any]


def id_type(vocabulary: int) -> Any:
    """Return the type of the ids of a vocabulary."""
    return CODES[8] if vocabulary < LARGEST_UINT16 else CODES[4]


def index_file(tokens: Path) -> Path:
    """Return the path of the .idx file of a .bin file."""
    return tokens.with_suffix(".idx")


class TokenWriter:
    """Context manager that writes documents to a .bin file, and its .idx file at the end."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        self.path, self.dtype = path, id_type(vocabulary)
        self.lengths: list[int] = []

    def __enter__(self) -> TokenWriter:
        self.file = self.path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()
        if kind is None:
            self._write_index()

    def add(self, ids: list[int]) -> None:
        """Append a document."""
        self.file.write(np.asarray(ids, dtype=self.dtype).tobytes())
        self.lengths.append(len(ids))

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def _write_index(self) -> None:
        lengths = np.asarray(self.lengths, dtype="<i4")
        ends = np.cumsum(lengths, dtype="<i8") * self.dtype.itemsize
        pointers = np.concatenate([np.zeros(1, "<i8"), ends])[: len(lengths)]
        (code,) = (code for code, dtype in CODES.items() if dtype == self.dtype)
        with index_file(self.path).open("wb") as file:
            file.write(HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
            file.write(lengths.tobytes())
            file.write(pointers.tobytes())
            file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A .bin file, checked against its .idx file.

    Attributes:
        path: of the .bin file.
        dtype: of its ids.
        tokens, documents: how many it has.
    """

    path: Path
    dtype: Any
    tokens: int
    documents: int

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        """Read the .idx file's header and last entry.

        Raises:
            ValueError: if a file is missing, the .idx file is damaged, or the two do not belong
                together.
        """
        index = index_file(path)
        try:
            size, index_size = path.stat().st_size, index.stat().st_size
            with index.open("rb") as file:
                head = file.read(HEADER.size)
        except FileNotFoundError as error:
            raise ValueError(
                f"there is no file {error.filename}; tokenize the text again"
            ) from None
        magic, version, code, sequences, boundaries = (
            HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, 0, 0)
        )
        expected = HEADER.size + 12 * sequences + 8 * boundaries
        if (magic, version) != (MAGIC, 1) or code not in CODES or index_size < expected:
            raise ValueError(
                f"{index} is not a whole index of Megatron's format, version 1; "
                "tokenize the text again"
            )
        dtype = CODES[code]
        indexed = _last_end(index, sequences, dtype.itemsize)
        if indexed != size:
            raise ValueError(
                f"{index} describes {indexed} bytes of tokens, but {path.name} has {size}; "
                "they do not belong together: tokenize the text again"
            )
        return cls(path=path, dtype=dtype, tokens=size // dtype.itemsize, documents=boundaries - 1)

    def read(self) -> Ids:
        """Return all ids as a memory map: (tokens,)."""
        if self.tokens == 0:  # an empty file cannot be mapped
            return np.empty(0, self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r")

    def document_ends(self) -> Ids:
        """Return the position after the last token of each document."""
        with index_file(self.path).open("rb") as file:
            file.seek(HEADER.size)
            lengths = np.fromfile(file, dtype="<i4", count=self.documents)
        return np.cumsum(lengths, dtype=np.int64)


def _last_end(index: Path, sequences: int, itemsize: int) -> int:
    """Return the end of the last sequence in the .bin file, in bytes."""
    if not sequences:
        return 0
    with index.open("rb") as file:
        file.seek(HEADER.size + 4 * (sequences - 1))
        length = int(np.fromfile(file, dtype="<i4", count=1)[0])
        file.seek(HEADER.size + 4 * sequences + 8 * (sequences - 1))
        pointer = int(np.fromfile(file, dtype="<i8", count=1)[0])
    return pointer + length * itemsize
