"""Synthetic genome and eight tasks with planted elements, in the formats of the real ones.

A genome is a FASTA file with lower case and N, and a BED file with the intervals of the splits. A
task is a folder as GenomicBenchmarks has, with the names and classes of its eight tasks.

The classes of a task differ in the order of bases in a word, in the order or the distance of two
words, or in codons; words and codons are mutated, and on a random strand. Their composition is the
same. Accuracy in percent of a logistic regression on counts, trained and tested on 2,000 sequences
per class (measured once; the standard error is 0.8, with three classes 0.6):

    task                                one and two bases   three bases
    dummy_mouse_enhancers_ensembl                    49.6         100.0
    demo_coding_vs_intergenomic_seqs                 49.9          94.5
    demo_human_or_worm                               48.8          99.5
    human_enhancers_cohn                             50.5          53.0
    human_enhancers_ensembl                          50.0          50.0
    human_ensembl_regulatory                         34.5          98.0
    human_nontata_promoters                          50.6          99.4
    human_ocr_ensembl                                50.1          99.8

Words are told apart by their triples, in two tasks only by the positions of two words.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dyt_hyenadna.intervals import SPLITS, Interval, write_bed
from matched.files import atomic_write

Letters = npt.NDArray[np.uint8]
Element = tuple[str | int, ...]
"""Words, and numbers of background bases between them."""

BACKGROUND = np.frombuffer(b"A" * 59 + b"C" * 41 + b"G" * 41 + b"T" * 59, np.uint8)
"""Bases with the shares of the human genome: 41 % are G or C."""
MUTATED = 0.05
"""Share of an element's bases that are replaced by background."""
LINE = 60
"""Bases per line of the FASTA."""
CHROMOSOMES = {"chr1": "train", "chr2": "train", "chr3": "train", "chr4": "valid", "chr5": "test"}
CHROMOSOME_LENGTH = 40_960
INTERVAL_LENGTH = 1_024
CODING = "coding"
NONCODING = "noncoding"
CODONS = ("GCT", "GAA", "AAG", "CTG", "GGA", "TTC", "ACC", "ATG", "CAA", "GTC", "TCA", "AAC")
"""Codons of the genome's genes, none of them a stop codon."""


@dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """Task whose classes differ in what their sequences contain.

    Attributes:
        classes: class → element, ``(CODING,)`` or ``(NONCODING,)``; sorted by class.
        train, test: sequences per class.
        lengths: shortest and longest sequence.
        max_length: bases of the model's input.
        copies: elements in a sequence.
    """

    classes: Mapping[str, Element]
    train: int = 480
    test: int = 240
    lengths: tuple[int, int] = (64, 64)
    max_length: int = 64
    copies: int = 2


TASKS = {
    "dummy_mouse_enhancers_ensembl": SyntheticTask(
        classes={"negative": ("CAGATTGT",), "positive": ("CATGAGTT",)},
        train=240,
        test=120,
        lengths=(80, 160),
        max_length=96,
        copies=4,
    ),
    "demo_coding_vs_intergenomic_seqs": SyntheticTask(
        classes={"coding_seqs": (CODING,), "intergenomic_seqs": (NONCODING,)}
    ),
    "demo_human_or_worm": SyntheticTask(
        classes={"human": ("GCAAGTACTC",), "worm": ("GTCTAACAGC",)}
    ),
    "human_enhancers_cohn": SyntheticTask(
        classes={
            "negative": ("ATCAACCTA", 3, "CAAGATGT"),
            "positive": ("CAAGATGT", 3, "ATCAACCTA"),
        }
    ),
    "human_enhancers_ensembl": SyntheticTask(
        classes={
            "negative": ("ATTGAGTA", 8, "GACGTCA"),
            "positive": ("ATTGAGTA", 3, "GACGTCA"),
        },
        lengths=(56, 72),
    ),
    "human_ensembl_regulatory": SyntheticTask(
        classes={
            "enhancer": ("ACATCGCCTG",),
            "ocr": ("ACGCTCCATG",),
            "promoter": ("ATCTGCACCG",),
        },
        lengths=(48, 80),
    ),
    "human_nontata_promoters": SyntheticTask(
        classes={
            "negative": ("CTGACGTTAT", 4, "GGCAC"),
            "positive": ("CGATGTACTT", 4, "GGCAC"),
        }
    ),
    "human_ocr_ensembl": SyntheticTask(
        classes={"negative": ("TGCAGATCTT",), "positive": ("TCATTGAGCT",)}, lengths=(56, 72)
    ),
}
"""Name → task, in the order of GenomicBenchmarks'."""


def complement(letters: Letters) -> Letters:
    """Return the other strand."""
    other = letters.tobytes().translate(bytes.maketrans(b"ACGT", b"TGCA"))
    return np.frombuffer(other, np.uint8)[::-1]


def background(rng: np.random.Generator, length: int) -> Letters:
    """Return independent bases."""
    return BACKGROUND[rng.integers(len(BACKGROUND), size=length)]


def coding(rng: np.random.Generator, length: int) -> Letters:
    """Return random codons, from a random position of the first one."""
    codons = rng.choice(CODONS, length // 3 + 2)
    start = rng.integers(3)
    return np.frombuffer("".join(codons).encode(), np.uint8)[start : start + length]


def _pair_chain() -> tuple[list[float], list[list[float]]]:
    """Return the cumulative shares of bases in ``CODONS``, and of the base after each base."""
    pairs = np.zeros((4, 4))
    for first in CODONS:
        codon = ["ACGT".index(base) for base in first]
        pairs[codon[0], codon[1]] += 1
        pairs[codon[1], codon[2]] += 1
        for second in CODONS:
            pairs[codon[2], "ACGT".index(second[0])] += 1 / len(CODONS)
    start = np.cumsum(pairs.sum(axis=1) / pairs.sum())
    following = np.cumsum(pairs / pairs.sum(axis=1, keepdims=True), axis=1)
    return start.tolist(), following.tolist()


_START, _FOLLOWING = _pair_chain()


def noncoding(rng: np.random.Generator, length: int) -> Letters:
    """Return a Markov chain with the same frequencies of single bases and pairs as ``coding``."""
    shares, chain = _START, bytearray()
    for number in rng.random(length).tolist():
        state = min(bisect_right(shares, number), 3)
        chain.append(b"ACGT"[state])
        shares = _FOLLOWING[state]
    return np.frombuffer(bytes(chain), np.uint8)


def write_element(rng: np.random.Generator, element: Element) -> Letters:
    """Return an element with mutations."""
    parts = [
        background(rng, part) if isinstance(part, int) else np.frombuffer(part.encode(), np.uint8)
        for part in element
    ]
    letters = np.concatenate(parts)
    mutated = rng.random(len(letters)) < MUTATED
    return np.where(mutated, background(rng, len(letters)), letters)


def make_sequence(rng: np.random.Generator, task: SyntheticTask, kind: str) -> Letters:
    """Return a sequence of a class, on a random strand."""
    length = int(rng.integers(*task.lengths, endpoint=True))
    element = task.classes[kind]
    if element in ((CODING,), (NONCODING,)):
        letters = coding(rng, length) if element == (CODING,) else noncoding(rng, length)
    else:
        letters = background(rng, length)
        # One element in each part of the sequence, so that they do not overlap, and between bases
        # of background: at an end, a word lacks a pair of bases that the other word has.
        bounds = np.linspace(0, length, task.copies + 1).astype(int)
        for start, end in pairwise(bounds.tolist()):
            site = write_element(rng, element)
            position = int(rng.integers(start + 1, end - len(site)))
            letters[position : position + len(site)] = site
    return complement(letters) if rng.random() < 0.5 else letters


def make_chromosome(rng: np.random.Generator, length: int) -> Letters:
    """Return genes and elements in random order, on random strands, with few bases between them.

    The elements are those of one class of each task: a network that has learned them tells the
    classes apart with few labels. Denser elements are learned in fewer steps.
    """
    elements = [list(task.classes.values())[-1] for task in TASKS.values()]
    elements = [(CODING,) if element == (NONCODING,) else element for element in elements]
    parts, made = [], 0
    while made < length:
        element = elements[rng.integers(len(elements))]
        part = coding(rng, 60) if element == (CODING,) else write_element(rng, element)
        part = complement(part) if rng.random() < 0.5 else part
        parts += [part, background(rng, int(rng.integers(2, 6)))]
        made += len(parts[-2]) + len(parts[-1])
    return np.concatenate(parts)[:length]


def write_genome(folder: Path, fasta: str, bed: str, seed: int) -> None:
    """Write the FASTA and the BED file of the genome."""
    folder.mkdir(parents=True, exist_ok=True)
    intervals: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    with atomic_write(folder / fasta) as temporary, temporary.open("wb") as file:
        for number, (name, split) in enumerate(CHROMOSOMES.items()):
            rng = np.random.default_rng([seed, 0, number])
            letters = make_chromosome(rng, CHROMOSOME_LENGTH)
            file.write(f">{name} synthetic\n".encode())
            text = _mark(rng, letters).tobytes()
            for start in range(0, len(text), LINE):
                file.write(text[start : start + LINE] + b"\n")
            intervals[split] += [
                Interval(name, start, start + INTERVAL_LENGTH)
                for start in range(0, CHROMOSOME_LENGTH, INTERVAL_LENGTH)
            ]
    write_bed(folder / bed, intervals)


def _mark(rng: np.random.Generator, letters: Letters) -> Letters:
    """Return a chromosome with one tenth in lower case, like repeats, and a gap of N."""
    letters = letters.copy()
    for start in rng.integers(0, len(letters), len(letters) // 1000):
        letters[start : start + 100] |= 0x20
    gap = int(rng.integers(len(letters)))
    letters[gap : gap + 50] = ord("N")
    return letters


def write_tasks(folder: Path, seed: int) -> None:
    """Write the folders of all tasks; the folder appears only when it is complete."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for number, (name, task) in enumerate(TASKS.items()):
            for part, split in enumerate(("train", "test")):
                for label, kind in enumerate(task.classes):
                    rng = np.random.default_rng([seed, 1, number, part, label])
                    target = temporary / name / split / kind
                    target.mkdir(parents=True)
                    for index in range(getattr(task, split)):
                        letters = make_sequence(rng, task, kind)
                        (target / f"{index}.txt").write_bytes(letters.tobytes())
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
