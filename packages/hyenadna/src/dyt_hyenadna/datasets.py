"""Torch data sets: windows of a genome, and the sequences of a benchmark task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dyt_hyenadna.benchmark_files import read_packed
from dyt_hyenadna.genome import Genome
from dyt_hyenadna.intervals import Windows
from dyt_hyenadna.tokenizer import PAD, PADDED_VOCABULARY, Ids, N, encode, reverse_complement

_N_AS_PAD = np.arange(PADDED_VOCABULARY, dtype=np.uint8)
_N_AS_PAD[N] = PAD


class GenomeWindows(Dataset[Tensor]):
    """Ids of the windows of one split, int64 ``(L,)``.

    Random choices (the strand, the position for the cut "random") draw from torch's global
    generator, which the training loop seeds for (seed, epoch, index) before each sample.

    Args:
        genome: the FASTA.
        windows: where to read; a window shorter than its length is padded with [PAD] on the left.
        flip: probability of reading the other strand.
        upper_case: read lower case as bases. False is HyenaDNA's official reading, in which
            repeats are [UNK].
        n_as_pad: read N as [PAD], which losses ignore, as Caduceus does. False is HyenaDNA's
            official reading, in which N is predicted like a base.
    """

    def __init__(
        self,
        genome: Genome,
        windows: Windows,
        *,
        flip: float = 0.0,
        upper_case: bool = True,
        n_as_pad: bool = True,
    ) -> None:
        self.genome, self.windows, self.flip = genome, windows, flip
        self.upper_case, self.n_as_pad = upper_case, n_as_pad

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Tensor:
        draw = float(torch.rand((), dtype=torch.float64)) if self.windows.cut == "random" else 0.0
        bases = self.genome.read(*self.windows.cut_window(index, draw))
        ids = encode(bases, upper_case=self.upper_case)
        if self.flip and float(torch.rand(())) < self.flip:
            ids = reverse_complement(ids)
        return _padded(_N_AS_PAD[ids] if self.n_as_pad else ids, self.windows.length)


class BenchmarkSequences(Dataset[tuple[Tensor, int]]):
    """Ids and label of the sequences of a benchmark task.

    Sequences have their first ``max_length`` bases, and [PAD] on the left up to that length. Ids
    are int64 ``(max_length,)``, or ``(2, max_length)`` for both strands.

    Args:
        directory: run directory of a preparation.
        task: name of the task.
        split: "train" or "test".
        max_length: bases of the input.
        flip: probability of reading the other strand, for training.
        both_strands: return the sequence and its reverse complement.
        cut_before_flip: both strands have the same bases. False is the official reading, in which a
            sequence is cut after it is reversed: the other strand of a longer one begins at its
            other end.
        upper_case: as in ``GenomeWindows``. N is a token, as in the official readings.
    """

    def __init__(
        self,
        directory: Path,
        task: str,
        split: str,
        max_length: int,
        *,
        flip: float = 0.0,
        both_strands: bool = False,
        cut_before_flip: bool = True,
        upper_case: bool = True,
    ) -> None:
        packed = read_packed(directory, task)
        self.classes = packed.classes
        self.letters, self.ends, self.labels = packed.split(split)
        self.max_length, self.flip, self.both_strands = max_length, flip, both_strands
        self.cut_before_flip, self.upper_case = cut_before_flip, upper_case

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        start = self.ends[index - 1] if index else 0
        ids = encode(self.letters[start : self.ends[index]].tobytes(), upper_case=self.upper_case)
        if self.cut_before_flip:
            ids = ids[: self.max_length]
        strands = [ids]
        if self.both_strands:
            strands.append(reverse_complement(ids))
        elif self.flip and float(torch.rand(())) < self.flip:
            strands = [reverse_complement(ids)]
        padded = [_padded(x, self.max_length) for x in strands]
        return torch.stack(padded) if self.both_strands else padded[0], int(self.labels[index])


def _padded(ids: Ids, length: int) -> Tensor:
    """Return the first ``length`` ids, with [PAD] on the left if there are fewer."""
    result = np.full(length, PAD, np.int64)
    result[max(0, length - len(ids)) :] = ids[:length]
    return torch.from_numpy(result)
