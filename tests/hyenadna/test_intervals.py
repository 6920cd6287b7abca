"""BED files, intervals made by seed, and windows cut from intervals."""

from itertools import combinations

import pytest

from dyt_hyenadna.genome import Genome, index_fasta
from dyt_hyenadna.intervals import (
    CUTS,
    SPLITS,
    STRETCH,
    HeldOut,
    Interval,
    Windows,
    count_overlaps,
    draw,
    make_intervals,
    match_to_genome,
    read_bed,
    write_bed,
)

from ..messages import refused

RECORDS = {f"c{number}": "ACGT" * 300 for number in range(10)}
LENGTHS = {"chr1": 3 << 20, "chr2": 500}
INTERVALS = {
    "train": [Interval("chr1", 0, 1000), Interval("chr1", 2000, 2999)],
    "valid": [Interval("chr1", 1000, 2000)],
    "test": [Interval("chr2", 0, 500)],
}
DRAWN = {"train": ["b", "b"], "valid": ["c", "d", "d"], "test": ["a", "a"]}
"""Records of the intervals of seed 0."""
COLUMNS = "expected chromosome, start, end and split, without a header"
GOOD = "chr1\t0\t100\ttrain\nchr1\t100\t200\tvalid\nchr2\t0\t100\ttest\n"


def make_genome(folder, records):
    path = folder / "g.fa"
    path.write_text("".join(f">{name}\n{letters}\n" for name, letters in records.items()))
    index_fasta(path, folder / "index.fai")
    return Genome(path, folder / "index.fai")


def bed(tmp_path, text):
    (tmp_path / "i.bed").write_bytes(text.encode())
    return tmp_path / "i.bed"


def bases(intervals):
    return {(x.chromosome, position) for x in intervals for position in range(x.start, x.end)}


class TestReadBed:
    def test_read_bed_inverts_write_bed(self, tmp_path):
        splits = read_bed(bed(tmp_path, GOOD))
        assert splits == {
            "train": [Interval("chr1", 0, 100)],
            "valid": [Interval("chr1", 100, 200)],
            "test": [Interval("chr2", 0, 100)],
        }
        write_bed(tmp_path / "copy.bed", splits)
        assert (tmp_path / "copy.bed").read_text() == GOOD

    def test_read_bed_accepts_comments_and_windows_line_ends(self, tmp_path):
        text = "# made by hand\ntrack name=x\nbrowser hide all\n" + GOOD + "\n"
        assert read_bed(bed(tmp_path, text.replace("\n", "\r\n"))) == read_bed(bed(tmp_path, GOOD))

    @pytest.mark.parametrize(
        "line, message",
        [
            (
                "chrom\tstart\tend\tsplit",
                f"line 4 has 'start' and 'end' as start and end; {COLUMNS}",
            ),
            ("chr1\t0\t100", f"line 4 has 3 columns; {COLUMNS}"),
            ("chr1\t0\t100\tdev", "line 4 has the split 'dev'; expected one of train, valid, test"),
            ("chr1\t-5\t100\ttest", f"line 4 has '-5' and '100' as start and end; {COLUMNS}"),
            ("chr1\t100\t100\ttest", "line 4 ends at 100, not after its start 100"),
        ],
        ids=["header", "columns", "split", "negative", "empty"],
    )
    def test_read_bed_refuses_line(self, tmp_path, line, message):
        with pytest.raises(ValueError) as error:
            read_bed(bed(tmp_path, f"{GOOD}{line}\n"))
        assert str(error.value) == f"{tmp_path / 'i.bed'}, {message}"

    def test_read_bed_refuses_missing_split(self, tmp_path):
        path = bed(tmp_path, "chr1\t0\t100\ttrain\n")
        assert refused(read_bed, path) == (
            f"{path} has no intervals for valid, test; expected some for each of train, valid, test"
        )


class TestMatchToGenome:
    @pytest.fixture
    def genome(self, tmp_path):
        return make_genome(tmp_path, {"1": "A" * 200, "2": "C" * 100})

    def test_match_to_genome_takes_the_genomes_names(self, tmp_path, genome):
        path = bed(tmp_path, GOOD)
        matched = match_to_genome(read_bed(path), genome, path)
        assert [x.chromosome for split in SPLITS for x in matched[split]] == ["1", "1", "2"]

    def test_match_to_genome_names_missing_chromosomes(self, tmp_path, genome):
        path = bed(tmp_path, GOOD + "chr3\t0\t9\ttest\nchr3\t9\t18\ttest\nchrX\t0\t9\ttest\n")
        with pytest.raises(ValueError) as error:
            match_to_genome(read_bed(path), genome, path)
        assert str(error.value) == (
            f"{path} has 3 intervals on 2 chromosomes that {genome.fasta} lacks: chr3, chrX; the "
            "FASTA has 1, 2. Use the FASTA that the BED file was made for"
        )

    def test_match_to_genome_names_interval_beyond_end(self, tmp_path, genome):
        path = bed(tmp_path, GOOD + "chr2\t50\t101\ttrain\nchr2\t90\t150\ttest\n")
        with pytest.raises(ValueError) as error:
            match_to_genome(read_bed(path), genome, path)
        assert str(error.value) == (
            f"{path} has 2 intervals beyond the end of a chromosome, such as 2 50 to 101, and "
            f"{genome.fasta} has 100 bases there; the FASTA is another one or cut short"
        )

    def test_count_overlaps_counts_intervals_of_other_splits(self, tmp_path, genome):
        path = bed(tmp_path, GOOD)
        assert count_overlaps(match_to_genome(read_bed(path), genome, path)) == 0
        path = bed(tmp_path, GOOD + "chr1\t199\t200\ttest\nchr2\t0\t9\ttest\n2\t8\t9\ttrain\n")
        # The first test interval and valid; the training interval on chr2, called 2, and test.
        assert count_overlaps(match_to_genome(read_bed(path), genome, path)) == 2


class TestMakeIntervals:
    def test_make_intervals_holds_out_chromosomes(self, tmp_path):
        genome = make_genome(tmp_path, RECORDS)
        held_out = HeldOut(length=100, valid=0.1, test=0.2)
        splits = make_intervals(genome, held_out, seed=0)
        names = {split: {x.chromosome for x in splits[split]} for split in SPLITS}
        assert (len(names["train"]), len(names["valid"]), len(names["test"])) == (7, 1, 2)
        assert not any(names[a] & names[b] for a, b in combinations(SPLITS, 2))
        assert all(x.end - x.start == 100 for split in SPLITS for x in splits[split])
        assert make_intervals(genome, held_out, seed=0) == splits
        assert make_intervals(genome, held_out, seed=1) != splits

    def test_make_intervals_leaves_out_n_and_short_records(self, tmp_path):
        records = {**RECORDS, "gap": "N" * 1000, "short": "ACGT"}
        splits = make_intervals(make_genome(tmp_path, records), HeldOut(length=100), seed=0)
        names = {x.chromosome for split in SPLITS for x in splits[split]}
        assert names == set(RECORDS)

    def test_make_intervals_gives_every_split_a_chromosome(self, tmp_path):
        records = {"a": "ACGT" * 1000, "b": "ACGT" * 30, "c": "ACGT" * 30}
        for seed in range(6):
            genome = make_genome(tmp_path, records)
            splits = make_intervals(genome, HeldOut(length=100, valid=0.05, test=0.05), seed)
            assert all(splits[split] for split in SPLITS)

    def test_make_intervals_refuses_two_chromosomes(self, tmp_path):
        genome = make_genome(tmp_path, {"a": "ACGT" * 100, "b": "ACGT" * 100, "c": "ACGT"})
        assert refused(make_intervals, genome, HeldOut(length=100), seed=0) == (
            f"{genome.fasta} has 2 records with an interval of 100 bases (at most 10% of them N); "
            "expected at least 3, because validation and test hold out whole records. Choose "
            "shorter intervals, or give a BED file"
        )

    def test_intervals_of_a_seed_are_tiles_from_a_drawn_offset(self, tmp_path):
        """The offset and the order are those of the hashes, the same everywhere."""
        genome = make_genome(tmp_path, dict.fromkeys("abcd", "ACGT" * 100))
        splits = make_intervals(genome, HeldOut(length=150, valid=0.2, test=0.2), seed=0)
        assert {split: [x.chromosome for x in splits[split]] for split in SPLITS} == DRAWN
        starts = {}
        for split in SPLITS:
            for x in splits[split]:
                starts.setdefault(x.chromosome, []).append(x.start)
        expected = {name: draw(0, name) % 150 for name in "abcd"}
        assert {name: positions[0] for name, positions in starts.items()} == expected
        for positions in starts.values():
            assert positions == list(range(positions[0], 251, 150))

    def test_an_interval_may_have_its_largest_share_of_n(self, tmp_path):
        records = dict.fromkeys("abc", "N" * 10 + "A" * 40 + "n" * 10 + "C" * 40)
        genome = make_genome(tmp_path, records)
        make_intervals(genome, HeldOut(length=100, max_n=0.2), seed=0)
        with pytest.raises(ValueError, match="at most 19% of them N"):
            make_intervals(genome, HeldOut(length=100, max_n=0.19), seed=0)

    @pytest.mark.parametrize("shares", [(0.5, 0.5), (0.0, 0.5), (0.5, 0.0), (0.3, 0.9)])
    def test_held_out_refuses_shares(self, shares):
        valid, test = shares
        assert refused(HeldOut, valid=valid, test=test) == (
            f"valid is {valid} and test is {test}; expected two positive shares of the genome with "
            "a sum below 1"
        )


class TestWindows:
    def windows(self, split, cut, length=128):
        windows = Windows(INTERVALS[split], LENGTHS, length, cut)
        return [windows.cut_window(index) for index in range(len(windows))]

    def test_tiles_divide_intervals_without_overlap(self):
        tiles = self.windows("train", "tiles")
        assert len(tiles) == 7 + 7
        assert tiles[0] == ("chr1", 0, 128) and tiles[7] == ("chr1", 2000, 2128)
        assert len(bases(tiles)) == 14 * 128
        assert bases(tiles) <= bases(INTERVALS["train"])

    @pytest.mark.parametrize("cut", ["tiles", "random"])
    def test_splits_stay_disjoint(self, cut):
        every = {}
        for split in SPLITS:
            windows = Windows(INTERVALS[split], LENGTHS, 100, cut)
            draws = (0.0, 0.3, 1 - 1e-12)
            every[split] = bases(
                windows.cut_window(index, draw) for index in range(len(windows)) for draw in draws
            )
        assert not any(every[a] & every[b] for a, b in combinations(SPLITS, 2))

    def test_random_windows_reach_both_ends_of_interval(self):
        windows = Windows(INTERVALS["test"], LENGTHS, 128, "random")
        assert len(windows) == 3
        assert windows.cut_window(0, 0.0) == ("chr2", 0, 128)
        assert windows.cut_window(2, 1 - 1e-12) == ("chr2", 372, 500)

    def test_first_takes_one_window_per_interval(self):
        assert self.windows("train", "first") == [("chr1", 0, 128), ("chr1", 2000, 2128)]

    def test_first_grows_short_intervals_to_chromosome_ends(self):
        # As upstream: 1501 more bases, half of them (rounded down) on the left.
        assert self.windows("train", "first", 2500)[1] == ("chr1", 1250, 3750)
        assert self.windows("train", "first", 2500)[0] == ("chr1", 0, 1750)
        assert self.windows("test", "first", 2500) == [("chr2", 0, 500)]

    def test_stretched_tiles_two_to_the_twenty_bases(self):
        length = STRETCH // 4
        lengths = {"chr1": STRETCH + 10}
        windows = Windows([Interval("chr1", 100, 200)], lengths, length, "stretched")
        tiles = [windows.cut_window(index) for index in range(len(windows))]
        assert tiles[:3] == [("chr1", 100 + i * length, 100 + (i + 1) * length) for i in range(3)]
        assert tiles[3] == ("chr1", STRETCH + 10 - length, STRETCH + 10)  # moved back

    def test_stretched_overlaps_other_splits(self):
        # Upstream's leakage: why it is not the default.
        train = bases(self.windows("train", "stretched", 1 << 12)[:2])
        assert train & bases(INTERVALS["valid"])

    def test_stretched_refuses_length_that_does_not_divide(self):
        assert refused(Windows, INTERVALS["train"], LENGTHS, 1000, "stretched") == (
            "length is 1000; expected a divisor of 2^20 for the cut 'stretched'"
        )

    @pytest.mark.parametrize("cut", ["tiles", "random", "stretched"])
    def test_windows_refuse_length_above_all_intervals(self, cut):
        length = 1024 if cut != "stretched" else STRETCH
        assert refused(Windows, INTERVALS["test"], LENGTHS, length, cut) == (
            f"none of the 1 intervals has {length} bases; choose a shorter length, longer "
            "intervals, or the cut 'first'"
        )

    @pytest.mark.parametrize("cut", CUTS)
    def test_windows_refuse_a_split_without_intervals(self, cut):
        assert refused(Windows, [], LENGTHS, 128, cut) == (
            "none of the 0 intervals has 128 bases; choose a shorter length, longer intervals, or "
            "the cut 'first'"
        )

    def test_windows_of_several_chromosomes_are_those_of_long_enough_ones(self):
        """By Caduceus's cut, a chromosome that is shorter than a window has none."""
        intervals = [Interval("chr2", 0, 500), Interval("chr1", 0, 10)]
        windows = Windows(intervals, LENGTHS, 1024, "stretched")
        assert len(windows) == 1024
        assert windows.cut_window(0) == ("chr1", 0, 1024)
        exact = Windows([Interval("chr2", 0, 500)], {"chr2": 512}, 512, "stretched")
        assert len(exact) == 2048 and exact.cut_window(7) == ("chr2", 0, 512)

    @pytest.mark.parametrize("cut", CUTS)
    def test_windows_are_as_long_as_asked(self, cut):
        assert all(x.end - x.start == 64 for x in self.windows("train", cut, 64))
