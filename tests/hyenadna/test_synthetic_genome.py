"""Synthetic genome: classes of a task have equal composition, and differ in order or distance."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dyt_hyenadna import synthetic_genome
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.synthetic_genome import coding, complement, make_sequence, noncoding

ELEMENTS = {
    name: list(task.classes.values())
    for name, task in synthetic_genome.TASKS.items()
    if name != "demo_coding_vs_intergenomic_seqs"
}


def composition(element):
    """Counts of bases and pairs in the words of an element, and the ends of the words."""
    words = [part for part in element if isinstance(part, str)]
    pairs = Counter(pair for word in words for pair in pairwise(word))
    return Counter("".join(words)), pairs, sorted((word[0], word[-1]) for word in words)


@pytest.mark.parametrize("name", ELEMENTS)
def test_classes_have_words_of_equal_composition(name):
    first, *others = ELEMENTS[name]
    for other in others:
        assert composition(other) == composition(first)
        assert other != first


@pytest.mark.parametrize("name", ELEMENTS)
def test_classes_differ_on_either_strand(name):
    def other_strand(element):
        return tuple(
            part
            if isinstance(part, int)
            else complement(np.frombuffer(part.encode(), np.uint8)).tobytes().decode()
            for part in element[::-1]
        )

    elements = ELEMENTS[name]
    assert not {*elements} & {other_strand(element) for element in elements}


def test_coding_and_noncoding_have_equal_pairs():
    def pairs(letters):
        counts = Counter(pairwise(letters.tolist()))
        return np.array([counts[a, b] for a in b"ACGT" for b in b"ACGT"]) / len(letters)

    rng = np.random.default_rng(0)
    genes, chains = coding(rng, 100_000), noncoding(rng, 100_000)
    np.testing.assert_allclose(pairs(genes), pairs(chains), atol=0.005)
    codons = Counter(genes[start : start + 3].tobytes() for start in range(len(genes) - 2))
    chance = Counter(chains[start : start + 3].tobytes() for start in range(len(chains) - 2))
    # Three bases tell the classes apart: codons are only a part of what the chain can make.
    assert sum((codons - chance).values()) > 0.2 * len(genes)


@pytest.mark.parametrize("name", synthetic_genome.TASKS)
def test_make_sequence_is_within_lengths(name):
    task = synthetic_genome.TASKS[name]
    assert tuple(task.classes) == TASKS[name].classes
    rng = np.random.default_rng(0)
    for kind in task.classes:
        lengths = {len(make_sequence(rng, task, kind)) for _ in range(50)}
        assert task.lengths[0] <= min(lengths) <= max(lengths) <= task.lengths[1]


def test_make_sequence_plants_copies_on_both_strands(monkeypatch):
    monkeypatch.setattr(synthetic_genome, "MUTATED", 0.0)
    task = synthetic_genome.TASKS["demo_human_or_worm"]
    rng = np.random.default_rng(0)
    word = task.classes["worm"][0].encode()
    other = complement(np.frombuffer(word, np.uint8)).tobytes()
    found = [make_sequence(rng, task, "worm").tobytes() for _ in range(40)]
    forward = sum(letters.count(word) == task.copies for letters in found)
    backward = sum(letters.count(other) == task.copies for letters in found)
    assert forward + backward == 40 and min(forward, backward) > 8


@pytest.mark.parametrize("name", ELEMENTS)
def test_make_sequence_surrounds_words_with_background(monkeypatch, name):
    # A word at an end lacks a pair of bases, which tells the classes apart by composition.
    monkeypatch.setattr(synthetic_genome, "MUTATED", 0.0)
    monkeypatch.setattr(synthetic_genome, "BACKGROUND", np.frombuffer(b"N", np.uint8))
    task = synthetic_genome.TASKS[name]
    rng = np.random.default_rng(0)
    for kind, element in task.classes.items():
        words = task.copies * sum(isinstance(part, str) for part in element)
        for _ in range(30):
            letters = make_sequence(rng, task, kind).tobytes()
            assert letters[:1] == letters[-1:] == b"N"
            assert len(letters.replace(b"N", b" ").split()) == words


def hash_of(files, root):
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def test_written_data_are_those_of_recorded_results(tmp_path, monkeypatch):
    """All results at smoke scale change with them, and runs keep their signatures."""
    genome, tasks = tmp_path / "genome", tmp_path / "tasks"
    synthetic_genome.write_genome(genome, "genome.fa", "genome.bed", 0)
    assert hash_of(genome.iterdir(), genome) == "d5fee8f1749224d0"
    few = {name: replace(task, train=2, test=1) for name, task in synthetic_genome.TASKS.items()}
    monkeypatch.setattr(synthetic_genome, "TASKS", few)
    synthetic_genome.write_tasks(tasks, 1)
    assert hash_of(tasks.rglob("*.txt"), tasks) == "e815530c99a046b8"
