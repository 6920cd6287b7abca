"""Benchmark tasks read once and packed into one file each, with a count of their defects.

A task has up to 289,061 small files, which take minutes to read from a network file system; its
fine-tuning runs read the packed file. Defects of the published data are counted and reported, not
repaired: accuracies would not be comparable.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dyt_hyenadna.genome import LETTERS
from dyt_hyenadna.genomic_benchmarks import SPLITS, check_task, sequence_files
from matched.files import atomic_write

PACK_FOLDER = "benchmarks"
"""Folder of the packed tasks in the run directory of a preparation."""
SHORT = 10
"""Bases below which a sequence is reported as short."""
BLOCK = 10_000
"""Files read between two calls of ``check``."""
_AMBIGUOUS = bytes(set(LETTERS) - set(b"ACGTN"))


class Split(NamedTuple):
    """Sequences one after the other.

    Attributes:
        letters: all sequences, uint8 ``(total,)``.
        ends: end of each sequence in ``letters``, int64 ``(n,)``.
        labels: class of each, int64 ``(n,)``.
    """

    letters: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A task.

    Attributes:
        classes: names, in the order of the labels.
        splits: "train" and "test".
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]

    def split(self, name: str) -> Split:
        return self.splits[name]


def read_task(
    folder: Path, classes: tuple[str, ...], check: Callable[[], None] = lambda: None
) -> Packed:
    """Read all sequences of a task.

    Args:
        folder: of the task.
        classes: expected classes, sorted.
        check: called now and then; it may raise an error to stop.

    Raises:
        ValueError: for other classes, or naming classes without files, and files that are empty or
            are no sequences of bases.
    """
    check_task(folder, classes)
    splits = {}
    for split in SPLITS:
        contents: list[bytes] = []
        labels: list[int] = []
        for label, kind in enumerate(classes):
            files = sequence_files(folder / split / kind)
            if not files:
                raise ValueError(
                    f"{folder / split / kind} has no sequences; expected one in each file "
                    "<number>.txt. Unpack its task again"
                )
            for number, file in enumerate(files):
                if number % BLOCK == 0:
                    check()
                contents.append(_read_sequence(file))
            labels += [label] * len(files)
        ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
        letters = np.frombuffer(b"".join(contents), np.uint8)
        splits[split] = Split(letters, ends, np.array(labels, np.int64))
    return Packed(classes=classes, splits=splits)


def _read_sequence(file: str) -> bytes:
    with open(file, "rb") as content:
        letters = content.read().strip()
    if not letters:
        raise ValueError(f"{file} is empty; expected a sequence of bases. Unpack its task again")
    if odd := letters.upper().translate(None, LETTERS):
        raise ValueError(
            f"{file} has {odd[:1].decode('latin-1')!r}; expected one sequence of bases"
        )
    return letters


def defects(name: str, task: Packed) -> list[str]:
    """Return one sentence for each kind of defect of a task, with counts."""
    train, test = (list(_sequences(task.splits[split])) for split in SPLITS)
    known = set(train)
    repeated = sum(sequence in known for sequence in test)
    lengths = [len(sequence) for sequence in (*train, *test)]
    short = sum(length < SHORT for length in lengths)
    other = sum(len(x) != len(x.translate(None, _AMBIGUOUS)) for x in (*train, *test))
    sentences = []
    if repeated:
        sentences.append(f"{repeated:,} of {len(test):,} test sequences are also in training")
    if short:
        sentences.append(
            f"{short:,} of {len(lengths):,} sequences have fewer than {SHORT} bases, the shortest "
            f"{min(lengths)}"
        )
    if other:
        sentences.append(
            f"{other:,} of {len(lengths):,} sequences have letters other than A, C, G, T and N, "
            "which are read as [UNK]"
        )
    return [f"{name}: {sentence}" for sentence in sentences]


def _sequences(split: Split) -> Iterator[bytes]:
    """Yield the sequences of a split in upper case."""
    letters, start = split.letters.tobytes().upper(), 0
    for end in split.ends.tolist():
        yield letters[start:end]
        start = end


def pack(task: Packed, file: Path) -> None:
    """Write a packed task atomically."""
    arrays = {
        f"{split}_{name}": array
        for split, content in task.splits.items()
        for name, array in content._asdict().items()
    }
    with atomic_write(file) as temporary, temporary.open("wb") as target:
        np.savez(target, classes=np.array(task.classes), **arrays)


def read_packed(directory: Path, task: str) -> Packed:
    """Read a task that a preparation has packed.

    Raises:
        ValueError: if it is missing or damaged.
    """
    file = directory / PACK_FOLDER / f"{task}.npz"
    try:
        with np.load(file) as arrays:
            splits = {
                split: Split(*(arrays[f"{split}_{name}"] for name in Split._fields))
                for split in SPLITS
            }
            return Packed(classes=tuple(map(str, arrays["classes"])), splits=splits)
    except FileNotFoundError:
        raise ValueError(f"there is no packed task {file}; prepare {task} first") from None
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); delete {directory} and submit again"
        ) from None
