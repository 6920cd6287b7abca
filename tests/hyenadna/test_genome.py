"""FASTA files: reads, names, damaged and changed files, use by several processes."""

import gzip
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from dyt_hyenadna.genome import Genome, index_fasta, some, unpack

from ..messages import refused

SEQUENCE = "ACGTNacgtnRYSWKMBDHV" * 5
EMPTY = "has 1 records without bases (b); it may be cut short: restore it, or delete these records"


def fasta(path, records, line=10, end="\n"):
    with path.open("w", newline="") as file:
        for name, letters in records.items():
            file.write(f">{name} description{end}")
            for start in range(0, len(letters), line):
                file.write(letters[start : start + line] + end)
    return path


def opened(path):
    index = path.with_name("index.fai")
    index_fasta(path, index)
    return Genome(path, index)


def index_error(path):
    with pytest.raises(ValueError) as error:
        index_fasta(path, path.with_name("index.fai"))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not path.with_name("index.fai").exists()
    return str(error.value)


@pytest.fixture
def genome(tmp_path):
    return opened(fasta(tmp_path / "g.fa", {"chr1": SEQUENCE, "chr2": "ACGT" * 8, "chrM": "A"}))


class TestRead:
    @pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
    def test_read_spans_lines_with_any_line_end(self, tmp_path, end):
        genome = opened(fasta(tmp_path / "g.fa", {"chr1": SEQUENCE, "chr2": "ACGT"}, end=end))
        assert genome.lengths == {"chr1": 100, "chr2": 4}
        for start, stop in ((0, 100), (3, 4), (9, 11), (10, 20), (95, 100), (7, 7)):
            assert genome.read("chr1", start, stop) == SEQUENCE[start:stop]
        assert genome.read("chr2", 0, 4) == "ACGT"

    @pytest.mark.parametrize("start, stop", [(-1, 4), (99, 101), (200, 300), (5, 4)], ids=str)
    def test_read_refuses_range_outside_record(self, genome, start, stop):
        assert refused(genome.read, "chr1", start, stop) == (
            f"bases {start} to {stop} of chr1 were asked for, and {genome.fasta} has 100 there"
        )

    def test_read_finds_chromosomes_with_and_without_chr(self, genome, tmp_path):
        assert genome.read("1", 0, 10) == genome.read("chr1", 0, 10)
        assert (genome.find("2"), genome.find("MT"), genome.find("M")) == ("chr2", "chrM", "chrM")
        (tmp_path / "ensembl").mkdir()
        plain = opened(fasta(tmp_path / "ensembl" / "g.fa", {"1": "ACGT", "MT": "AC"}))
        assert (plain.find("chr1"), plain.find("chrM"), plain.find("chr2")) == ("1", "MT", None)
        assert refused(plain.read, "chr7", 0, 1) == (
            f"{plain.fasta} has no record 'chr7'; its records are 1, MT"
        )

    def test_mitochondrion_has_several_names(self, tmp_path):
        for number, name in enumerate(("chrM", "M", "chrMT", "MT")):
            folder = tmp_path / str(number)
            folder.mkdir()
            genome = opened(fasta(folder / "g.fa", {"1": "ACGT", name: "AC"}))
            assert {genome.find(other) for other in ("chrM", "M", "chrMT", "MT")} == {name}

    def test_some_names_are_the_first_three(self):
        assert some(["a"]) == "a" and some(iter("abc")) == "a, b, c"
        assert some("abcd") == "a, b, c, …" and some("abcd", 4) == "a, b, c, d"

    def test_count_letters_reports_case_n_and_ambiguous(self, genome):
        counts = genome.count_letters()
        assert counts == {"bases": 133, "lower_case": 25, "n": 10, "ambiguous": 50}

    def test_count_letters_refuses_protein(self, tmp_path):
        protein = opened(fasta(tmp_path / "p.fa", {"P1": "MKLVFF"}))
        assert refused(protein.count_letters) == (
            f"{protein.fasta} has 'L' in the record P1; expected a FASTA of DNA, with the letters "
            "ACGTNRYSWKMBDHVU in either case"
        )

    def test_count_letters_counts_blocks_and_may_be_stopped(self, genome, monkeypatch):
        """chr1 has 100 bases, and chr2 32."""
        calls, expected = [], genome.count_letters()
        monkeypatch.setattr("dyt_hyenadna.genome.BLOCK", 16)
        assert genome.count_letters(lambda: calls.append(1)) == expected
        assert len(calls) == 7 + 2 + 1


class TestIndex:
    def test_index_fasta_ignores_index_next_to_file(self, tmp_path):
        path = fasta(tmp_path / "g.fa", {"chr1": "ACGT" * 10})
        wrong = tmp_path / "g.fa.fai"
        wrong.write_text("chr1\t7\t99\t3\t4\n")
        os.utime(wrong, (0, 0))
        (tmp_path / "own").mkdir()
        index_fasta(path, tmp_path / "own" / "index.fai")
        assert Genome(path, tmp_path / "own" / "index.fai").lengths == {"chr1": 40}
        assert wrong.read_text() == "chr1\t7\t99\t3\t4\n"

    def test_index_fasta_writes_nothing_next_to_file(self, tmp_path):
        (tmp_path / "data").mkdir()
        path = fasta(tmp_path / "data" / "g.fa", {"chr1": "ACGT"})
        index_fasta(path, tmp_path / "index.fai")
        Genome(path, tmp_path / "index.fai").read("chr1", 0, 4)
        assert os.listdir(tmp_path / "data") == ["g.fa"]

    @pytest.mark.parametrize(
        "text, message",
        [
            (">a\nACGT\n>b\n>c\nAC\n", EMPTY),
            (">a\nACGT\n>b\n", EMPTY),
            (">a\nACGT\nAC\nACGT\n", "cannot be indexed (Line length of fasta file is not"),
            (">a\nACGT\n\nACGT\n", "cannot be indexed (Line length of fasta file is not"),
            (
                ">a\nACGT\n\n\n",
                "cannot be indexed (blank lines, or lines of different lengths, in or after its "
                "last record); expected FASTA with lines of one length in a record, and different "
                "names",
            ),
            (">a\nAC\n>a\nGT\n", 'cannot be indexed (Duplicate key "a"'),
            ("<html>404</html>\n", "cannot be indexed (Unexpected text before the first"),
            ("", "cannot be indexed (The FASTA file"),
            (
                ">a\rACGT\r",
                "has carriage returns as line ends; expected line feeds: convert it with "
                "`tr '\\r' '\\n'`",
            ),
            ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
        ],
        ids=[
            "empty",
            "empty last",
            "uneven",
            "blank",
            "blank last",
            "twice",
            "html",
            "no bytes",
            "old line ends",
            "pointer",
        ],
    )
    def test_index_fasta_refuses(self, tmp_path, text, message):
        (tmp_path / "g.fa").write_text(text)
        assert message in index_error(tmp_path / "g.fa")

    def test_index_fasta_accepts_long_descriptions(self, tmp_path):
        (tmp_path / "g.fa").write_text(f">a {'x' * 10_000}\nACGT\n>b {'y' * 5_000}\nAC\n")
        assert opened(tmp_path / "g.fa").read("b", 0, 2) == "AC"

    def test_index_fasta_refuses_binary_file(self, tmp_path):
        with gzip.open(tmp_path / "g.fa", "wb") as file:
            file.write(b">a\nACGT\n")
        assert index_error(tmp_path / "g.fa") == (
            f"{tmp_path / 'g.fa'} is not a text file; expected FASTA, uncompressed or with the "
            "ending .gz"
        )

    def test_index_fasta_warns_about_missing_line_end(self, tmp_path, harness_log):
        (tmp_path / "g.fa").write_text(">a\nACGT\nACG")
        assert opened(tmp_path / "g.fa").lengths == {"a": 7}
        assert harness_log.messages == [
            f"{tmp_path / 'g.fa'} does not end with a line end; it may be cut short"
        ]


class TestChangedFile:
    def reopen_error(self, genome):
        with pytest.raises(ValueError) as error:
            Genome(genome.fasta, genome.index)
        return str(error.value)

    def test_genome_refuses_file_cut_short(self, genome):
        size = genome.fasta.stat().st_size
        os.truncate(genome.fasta, 60)
        os.utime(genome.fasta, (0, 0))  # older than its index
        assert self.reopen_error(genome) == (
            f"{genome.fasta} was cut short: it has 60 bytes, and the index {genome.index} was made "
            f"for {size:,}"
        )

    def test_genome_refuses_longer_file(self, genome):
        size = genome.fasta.stat().st_size
        with genome.fasta.open("a") as file:
            file.write(">chr9\n" + "ACGT" * 250)
        assert self.reopen_error(genome) == (
            f"{genome.fasta} was replaced: it has {size + 1006:,} bytes, and the index "
            f"{genome.index} was made for {size}"
        )

    def test_genome_refuses_another_file_of_same_size(self, genome):
        text = genome.fasta.read_text()
        genome.fasta.write_text(text.replace(">chr2", ">chr3"))
        assert self.reopen_error(genome) == (
            f"{genome.fasta} was replaced: the record chr2 is not where the index {genome.index} "
            "has it"
        )

    def test_genome_refuses_same_records_with_other_bases(self, genome):
        text = genome.fasta.read_text()
        genome.fasta.write_text(text.replace("ACGTN", "ACTGN"))
        assert self.reopen_error(genome) == (
            f"{genome.fasta} was replaced: it has the size for which the index {genome.index} was "
            "made, but other contents"
        )

    def test_genome_compares_the_end_of_a_large_file(self, tmp_path):
        genome = opened(fasta(tmp_path / "g.fa", {"chr1": "ACGT" * 100_000}, line=80))
        with genome.fasta.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"C")
        assert "was replaced: it has the size for which the index" in self.reopen_error(genome)

    def test_genome_refuses_missing_files(self, genome):
        genome.fasta.unlink()
        assert self.reopen_error(genome) == f"there is no file {genome.fasta}"
        genome.index.unlink()
        message = f"there is no complete index {genome.index} of {genome.fasta}"
        assert self.reopen_error(genome) == message
        genome.index.with_name("index.fai.json").unlink()
        genome.index.touch()
        assert self.reopen_error(genome) == message

    def test_read_refuses_file_cut_short_while_open(self, tmp_path):
        genome = opened(fasta(tmp_path / "g.fa", {"chr1": "ACGT" * 50_000}))
        genome.read("chr1", 0, 4)
        os.truncate(genome.fasta, 100_000)
        assert refused(genome.read, "chr1", 150_000, 150_100) == (
            f"{genome.fasta} was changed while it was read: chr1 ends before base 150100"
        )


class TestProcesses:
    def test_pickled_genome_opens_its_own_handle(self, genome):
        genome.read("chr1", 0, 10)
        copy = pickle.loads(pickle.dumps(genome))
        assert copy.read("chr1", 5, 15) == SEQUENCE[5:15]

    def test_forked_processes_read_right_bases(self, tmp_path):
        rng = np.random.default_rng(0)
        letters = "".join(rng.choice(list("ACGT"), 200_000))
        genome = opened(fasta(tmp_path / "g.fa", {"chr1": letters}, line=60))
        genome.read("chr1", 0, 100)  # open before the fork, as in a DataLoader
        context = multiprocessing.get_context("fork")
        with context.Pool(2, _remember, (genome, letters)) as pool:
            wrong = pool.map(_wrong_reads, range(8), chunksize=1)
        assert sum(wrong) == 0


def _remember(genome, letters):
    global REMEMBERED
    REMEMBERED = genome, letters


def _wrong_reads(seed):
    genome, letters = REMEMBERED
    starts = np.random.default_rng(seed).integers(0, len(letters) - 1024, 200).tolist()
    return sum(
        genome.read("chr1", start, start + 1024) != letters[start : start + 1024]
        for start in starts
    )


class TestUnpack:
    def test_unpack_reads_gzip_and_bgzip(self, tmp_path):
        text = f">chr1\n{'ACGT' * 10}\n".encode()
        # bgzip writes many gzip members, and an empty one at the end.
        archive = tmp_path / "g.fa.gz"
        archive.write_bytes(
            gzip.compress(text[:20]) + gzip.compress(text[20:]) + gzip.compress(b"")
        )
        unpack(archive, tmp_path / "g.fa")
        assert (tmp_path / "g.fa").read_bytes() == text

    @pytest.mark.parametrize("damage", ["cut", "junk", "middle"])
    def test_unpack_refuses_damaged_archive(self, tmp_path, damage):
        content = gzip.compress(os.urandom(5000))
        if damage == "cut":
            content = content[:-100]
        elif damage == "middle":
            content = content[:2000] + b"x" * 10 + content[2010:]
        else:
            content = b"junk" * 100
        (tmp_path / "g.fa.gz").write_bytes(content)
        message = refused(unpack, tmp_path / "g.fa.gz", tmp_path / "g.fa")
        assert message.startswith(f"{tmp_path / 'g.fa.gz'} is damaged or cut short (")
        assert message.endswith("); download it again")
        assert os.listdir(tmp_path) == ["g.fa.gz"]

    def test_unpack_stops_when_asked(self, tmp_path):
        def stop():
            raise InterruptedError

        (tmp_path / "g.fa.gz").write_bytes(gzip.compress(b">a\nACGT\n"))
        with pytest.raises(InterruptedError):
            unpack(tmp_path / "g.fa.gz", tmp_path / "g.fa", stop)
        assert not (tmp_path / "g.fa").exists()
