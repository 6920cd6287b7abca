"""Intervals of a genome for training, validation and test: BED files, and windows cut from them.

A BED file has four tab-separated columns and no header: chromosome, start, end (counted from 0, the
end not included) and the split, "train", "valid" or "test". HyenaDNA's has intervals of 131,072
bases. For another genome, intervals are made by seed, with whole chromosomes held out.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from dyt_hyenadna.genome import Genome, some
from matched.checks import check_counts, check_fractions
from matched.files import read_text, write_text

SPLITS = ("train", "valid", "test")
COMMENTS = ("#", "track", "browser")
"""Beginnings of the lines that the BED format allows before the data."""
STRETCH = 1 << 20
"""Bases to which Caduceus stretches every interval."""
Cut = Literal["tiles", "random", "first", "stretched"]
CUTS = ("tiles", "random", "first", "stretched")


class Interval(NamedTuple):
    """Bases ``start`` to before ``end`` of a chromosome, counted from 0."""

    chromosome: str
    start: int
    end: int


Intervals = Mapping[str, Sequence[Interval]]
"""Split → its intervals."""


def read_bed(path: Path) -> dict[str, list[Interval]]:
    """Read the intervals of each split.

    Raises:
        ValueError: naming the first line that is not as described at the top of this module, or if
            a split has no interval.
    """
    splits: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.startswith(COMMENTS):
            split, interval = _parse_line(f"{path}, line {number}", line.split())
            splits[split].append(interval)
    if missing := [split for split in SPLITS if not splits[split]]:
        raise ValueError(
            f"{path} has no intervals for {', '.join(missing)}; expected some for each of "
            f"{', '.join(SPLITS)}"
        )
    return splits


def _parse_line(position: str, columns: Sequence[str]) -> tuple[str, Interval]:
    expected = "expected chromosome, start, end and split, without a header"
    if len(columns) < 4:
        raise ValueError(f"{position} has {len(columns)} columns; {expected}")
    chromosome, start, end, split = columns[:4]
    if not (start.isdecimal() and end.isdecimal()):
        raise ValueError(f"{position} has {start!r} and {end!r} as start and end; {expected}")
    if split not in SPLITS:
        raise ValueError(f"{position} has the split {split!r}; expected one of {', '.join(SPLITS)}")
    if int(start) >= int(end):
        raise ValueError(f"{position} ends at {end}, not after its start {start}")
    return split, Interval(chromosome, int(start), int(end))


def write_bed(path: Path, intervals: Intervals) -> None:
    """Write intervals as a BED file, atomically."""
    lines = (
        f"{interval.chromosome}\t{interval.start}\t{interval.end}\t{split}\n"
        for split in SPLITS
        for interval in intervals[split]
    )
    write_text(path, "".join(lines))


def match_to_genome(
    intervals: Intervals, genome: Genome, source: Path
) -> dict[str, list[Interval]]:
    """Return intervals with the genome's names of the chromosomes.

    Args:
        source: BED file, for messages.

    Raises:
        ValueError: if the genome lacks chromosomes, or an interval is beyond the end of one.
    """
    every = [interval for split in SPLITS for interval in intervals[split]]
    names = {interval.chromosome: genome.find(interval.chromosome) for interval in every}
    if missing := Counter(x.chromosome for x in every if names[x.chromosome] is None):
        raise ValueError(
            f"{source} has {missing.total():,} intervals on {len(missing)} chromosomes that "
            f"{genome.fasta} lacks: {some(missing)}; the FASTA has {some(genome.lengths)}. Use the "
            "FASTA that the BED file was made for"
        )
    matched = {
        split: [x._replace(chromosome=names[x.chromosome] or "") for x in intervals[split]]
        for split in SPLITS
    }
    beyond = [x for split in SPLITS for x in matched[split] if x.end > genome.lengths[x.chromosome]]
    if beyond:
        first = beyond[0]
        raise ValueError(
            f"{source} has {len(beyond):,} intervals beyond the end of a chromosome, such as "
            f"{first.chromosome} {first.start} to {first.end}, and {genome.fasta} has "
            f"{genome.lengths[first.chromosome]} bases there; the FASTA is another one or cut short"
        )
    return matched


def count_overlaps(intervals: Intervals) -> int:
    """Return the number of intervals that overlap an earlier one of another split.

    Held-out windows then have bases of the training.

    Args:
        intervals: with the genome's names of the chromosomes.
    """
    count = 0
    ends: dict[tuple[str, str], int] = {}
    for interval, split in sorted((x, name) for name in SPLITS for x in intervals[name]):
        chromosome, start, end = interval
        others = (ends.get((chromosome, other), 0) for other in SPLITS if other != split)
        count += max(others) > start
        ends[chromosome, split] = max(ends.get((chromosome, split), 0), end)
    return count


class Windows:
    """Windows of one length, cut from intervals when they are asked for.

    Cuts:

    - "tiles" divides each interval into windows that do not overlap, so that splits stay disjoint,
      and drops its remainder.
    - "random" has as many windows as "tiles", each at a random position of its interval.
    - "first" is HyenaDNA's: one window per interval, its first bases. A shorter interval is grown
      on both sides, over its neighbors, to the ends of the chromosome at most; the window then has
      fewer than ``length`` bases.
    - "stretched" is Caduceus's: each interval is stretched to 2^20 bases from its start and tiled,
      and a window beyond the end of the chromosome is moved back to it. Neighboring intervals,
      also those of other splits, then overlap.

    Args:
        intervals: of one split.
        lengths: name → bases of every chromosome.
        length: bases of a window.
        cut: one of the four above.

    Raises:
        ValueError: if there is no window, or the length does not divide 2^20 for "stretched".
    """

    def __init__(
        self,
        intervals: Sequence[Interval],
        lengths: Mapping[str, int],
        length: int,
        cut: Cut = "tiles",
    ) -> None:
        self.intervals, self.lengths, self.length, self.cut = intervals, lengths, length, cut
        if cut == "stretched" and STRETCH % length:
            raise ValueError(f"length is {length}; expected a divisor of 2^20 for the cut {cut!r}")
        self._ends = list(accumulate(map(self._count, intervals)))
        """Number of windows up to and with each interval."""
        if not len(self):
            raise ValueError(
                f"none of the {len(intervals)} intervals has {length} bases; choose a shorter "
                "length, longer intervals, or the cut 'first'"
            )

    def _count(self, interval: Interval) -> int:
        if self.cut == "first":
            return 1
        if self.cut == "stretched":
            return STRETCH // self.length if self.lengths[interval.chromosome] >= self.length else 0
        return (interval.end - interval.start) // self.length

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cut_window(self, index: int, draw: float = 0.0) -> Interval:
        """Return a window.

        Args:
            index: from 0 to below the number of windows.
            draw: random number in [0, 1), the position of the window for the cut "random".
        """
        assert 0 <= index < len(self) and 0 <= draw < 1
        number = bisect_right(self._ends, index)
        tile = index - (self._ends[number - 1] if number else 0)
        name, start, end = self.intervals[number]
        size = self.lengths[name]
        if self.cut == "first":
            if (missing := self.length - (end - start)) > 0:
                start, end = start - missing // 2, end + missing - missing // 2
                return Interval(name, max(start, 0), min(end, size))
            return Interval(name, start, start + self.length)
        if self.cut == "random":
            start += int(draw * (end - start - self.length + 1))
        else:
            start = min(start + tile * self.length, size - self.length)
        return Interval(name, start, start + self.length)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Intervals of a genome without a BED file.

    Attributes:
        length: bases of an interval.
        valid, test: share of the genome's bases held out for each, in whole chromosomes.
        max_n: largest share of N in an interval; those with more are left out.
    """

    length: int = 131_072
    valid: float = 0.05
    test: float = 0.05
    max_n: float = 0.1

    def __post_init__(self) -> None:
        check_counts(self, "length")
        check_fractions(self, "valid", "test", "max_n")
        if not min(self.valid, self.test) > 0 or self.valid + self.test >= 1:
            raise ValueError(
                f"valid is {self.valid} and test is {self.test}; expected two positive shares of "
                "the genome with a sum below 1"
            )


def make_intervals(genome: Genome, held_out: HeldOut, seed: int) -> dict[str, list[Interval]]:
    """Tile all chromosomes with intervals and hold out some chromosomes, chosen by seed and name.

    The tiles of a chromosome begin at a position drawn from the seed, below one interval. Records
    shorter than an interval are not used.

    Raises:
        ValueError: if fewer than three chromosomes have an interval.
    """
    usable = {}
    for name, size in genome.lengths.items():
        offset = draw(seed, name) % min(held_out.length, max(1, size - held_out.length + 1))
        tiles = [
            Interval(name, start, start + held_out.length)
            for start in range(offset, size - held_out.length + 1, held_out.length)
        ]
        if kept := [tile for tile in tiles if _n_share(genome, tile) <= held_out.max_n]:
            usable[name] = kept
    if len(usable) < len(SPLITS):
        raise ValueError(
            f"{genome.fasta} has {len(usable)} records with an interval of {held_out.length} bases "
            f"(at most {held_out.max_n:.0%} of them N); expected at least {len(SPLITS)}, because "
            "validation and test hold out whole records. Choose shorter intervals, or give a BED "
            "file"
        )
    return _hold_out_chromosomes(usable, held_out, seed)


def _hold_out_chromosomes(
    usable: Mapping[str, list[Interval]], held_out: HeldOut, seed: int
) -> dict[str, list[Interval]]:
    """Assign chromosomes in drawn order to test, then validation, until each has its share."""
    names = sorted(usable, key=lambda name: draw(seed, "order", name))
    total = sum(map(len, usable.values()))
    splits: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    wanted = {"test": held_out.test * total, "valid": held_out.valid * total}
    for position, name in enumerate(names):
        needs = [split for split in wanted if len(splits[split]) < wanted[split]]
        # The last chromosomes are left for the splits that have none yet.
        empty = [split for split in ("test", "valid", "train") if not splits[split]]
        if len(names) - position <= len(empty):
            needs = empty
        splits[needs[0] if needs else "train"] += usable[name]
    order = list(usable)
    return {split: sorted(splits[split], key=lambda x: order.index(x[0])) for split in SPLITS}


def _n_share(genome: Genome, interval: Interval) -> float:
    bases = genome.read(*interval)
    return (bases.count("N") + bases.count("n")) / len(bases)


def draw(*address: int | str) -> int:
    """Return a number drawn for an address; as ``matched.training.seeding``, without torch."""
    return int.from_bytes(hashlib.blake2b(repr(address).encode(), digest_size=8).digest())
