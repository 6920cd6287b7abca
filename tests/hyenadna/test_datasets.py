"""Data sets of windows and benchmark sequences: padding, strands, official readings, workers."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dyt_hyenadna import benchmark_files
from dyt_hyenadna.benchmark_files import Packed, Split, pack
from dyt_hyenadna.datasets import BenchmarkSequences, GenomeWindows
from dyt_hyenadna.genome import Genome, index_fasta
from dyt_hyenadna.intervals import Interval, Windows
from dyt_hyenadna.tokenizer import PAD, UNK, N, encode, reverse_complement
from matched.training.batches import SeededDataset

CHROMOSOME = "ACGTNacgtnRAAACCCGGGTTT"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(f">chr1\n{CHROMOSOME}\n")
    index_fasta(path, tmp_path / "index.fai")
    return Genome(path, tmp_path / "index.fai")


def windows(genome, length, cut="tiles", end=22):
    return Windows([Interval("chr1", 0, end)], genome.lengths, length, cut)


def ids(letters, **options):
    return encode(letters, **options).tolist()


class TestGenomeWindows:
    def test_windows_read_n_as_pad_and_lower_case_as_bases(self, genome):
        data = GenomeWindows(genome, windows(genome, 11))
        assert len(data) == 2 and data[0].dtype == torch.int64
        assert data[0].tolist() == [*ids("ACGT"), PAD, *ids("ACGT"), PAD, UNK]
        assert data[1].tolist() == ids("AAACCCGGGTT")

    def test_windows_read_as_hyenadna(self, genome):
        official = GenomeWindows(genome, windows(genome, 11), upper_case=False, n_as_pad=False)
        assert official[0].tolist() == [*ids("ACGT"), N, *[UNK] * 6]

    def test_windows_shorter_than_length_are_padded_left(self, genome):
        data = GenomeWindows(genome, windows(genome, 30, "first"))
        assert data[0].tolist()[:7] == [PAD] * 7 and data[0].shape == (30,)
        assert data[0].tolist()[-3:] == ids("TTT")

    def test_flip_reads_other_strand(self, genome):
        data = GenomeWindows(genome, windows(genome, 12), flip=1.0, n_as_pad=False)
        assert data[0].tolist() == reverse_complement(encode(CHROMOSOME[:12])).tolist()

    def test_random_windows_depend_on_seed_epoch_and_index(self, genome):
        data = SeededDataset(GenomeWindows(genome, windows(genome, 4, "random"), flip=0.5), seed=0)
        keys = [(epoch, index) for epoch in range(8) for index in range(5)]
        first = [data[key].tolist() for key in keys]
        assert [data[key].tolist() for key in reversed(keys)] == first[::-1]
        assert first[0:5] != first[5:10]

    def test_workers_read_what_one_process_reads(self, tmp_path):
        letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 50_000))
        path = tmp_path / "big.fa"
        path.write_text(f">1\n{letters}\n")
        index_fasta(path, tmp_path / "index.fai")
        genome = Genome(path, tmp_path / "index.fai")
        data = GenomeWindows(genome, Windows([Interval("1", 0, 50_000)], genome.lengths, 512))
        data[0]  # opens the file before the workers fork
        expected = torch.stack([data[index] for index in range(len(data))])
        read = torch.cat(list(DataLoader(data, batch_size=8, num_workers=2)))
        assert torch.equal(read, expected)
        assert expected[3].tolist() == ids(letters[3 * 512 : 4 * 512])


@pytest.fixture
def directory(tmp_path):
    """Run directory of a preparation with one packed task."""
    sequences = [b"ACGTACGTAA", b"ac", b"NRGT"]
    split = Split(
        np.frombuffer(b"".join(sequences), np.uint8),
        np.cumsum([len(x) for x in sequences]),
        np.array([0, 1, 1]),
    )
    (tmp_path / benchmark_files.PACK_FOLDER).mkdir()
    task = Packed(classes=("no", "yes"), splits={"train": split, "test": split})
    pack(task, tmp_path / benchmark_files.PACK_FOLDER / "task.npz")
    return tmp_path


class TestBenchmarkSequences:
    def items(self, directory, length=6, **options):
        data = BenchmarkSequences(directory, "task", "train", length, **options)
        assert len(data) == 3 and data.classes == ("no", "yes")
        return [data[index][0].tolist() for index in range(3)]

    def test_sequences_are_cut_and_padded_left(self, directory):
        assert self.items(directory) == [
            ids("ACGTAC"),
            [PAD] * 4 + ids("AC"),
            [PAD, PAD, N, UNK, *ids("GT")],
        ]
        labels = [label for _, label in BenchmarkSequences(directory, "task", "test", 6)]
        assert labels == [0, 1, 1]

    def test_sequences_read_as_official(self, directory):
        assert self.items(directory, upper_case=False)[1:] == [
            [PAD] * 4 + [UNK] * 2,
            [PAD, PAD, N, UNK, *ids("GT")],
        ]

    @pytest.mark.parametrize(
        "cut_before_flip, expected", [(True, "GTACGT"), (False, "TTACGT")], ids=["own", "official"]
    )
    def test_flip_cuts_longer_sequence(self, directory, cut_before_flip, expected):
        flipped = self.items(directory, flip=1.0, cut_before_flip=cut_before_flip)
        assert flipped[0] == ids(expected)
        assert flipped[1] == [PAD] * 4 + ids("GT")

    def test_both_strands_are_padded_left(self, directory):
        both = self.items(directory, both_strands=True)
        assert both[0] == [ids("ACGTAC"), ids("GTACGT")]
        assert both[1] == [[PAD] * 4 + ids("AC"), [PAD] * 4 + ids("GT")]
