"""Folders of GenomicBenchmarks: checks, counts, reading, packing and defects."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dyt_hyenadna import benchmark_files, genomic_benchmarks
from dyt_hyenadna.benchmark_files import defects, pack, read_packed, read_task
from dyt_hyenadna.genomic_benchmarks import TASKS, check_benchmarks, survey_benchmarks

from ..messages import refused

CLASSES = ("negative", "positive")
LAYOUT = "expected <task>/{train,test}/<class>/<number>.txt"
FETCH = (
    "get <task>_v0.zip of every task from the GenomicBenchmarks record on Zenodo (see "
    "packages/hyenadna/README.md) and unpack them into one folder"
)


@pytest.fixture
def task(tmp_path):
    """Folder of a task with two sequences per class and split."""
    folder = tmp_path / "task"
    for split, letters in (("train", "ACG"), ("test", "TTG")):
        for number, kind in enumerate(CLASSES):
            (folder / split / kind).mkdir(parents=True)
            (folder / split / kind / "0.txt").write_text(letters * 4 + "A" * number)
            (folder / split / kind / "1.txt").write_text(letters * 5 + "acgtn" + "\n" * number)
    return folder


def read_error(task, classes=CLASSES):
    with pytest.raises(ValueError) as error:
        read_task(task, classes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Folder of all eight tasks, with five sequences of every class."""
    small = {
        name: replace(
            task,
            train=dict.fromkeys(task.classes, 3),
            test=dict.fromkeys(task.classes, 2),
        )
        for name, task in TASKS.items()
    }
    monkeypatch.setattr(genomic_benchmarks, "TASKS", small)
    for name, task in small.items():
        for split in ("train", "test"):
            for kind, count in getattr(task, split).items():
                folder = tmp_path / "data" / name / split / kind
                folder.mkdir(parents=True)
                for number in range(count):
                    (folder / f"{number}.txt").write_text("ACGT")
    return tmp_path / "data"


class TestTasks:
    def test_tasks_have_published_counts(self):
        counts = {
            name: (sum(task.train.values()), sum(task.test.values()), task.max_length)
            for name, task in TASKS.items()
        }
        assert counts == {
            "dummy_mouse_enhancers_ensembl": (968, 242, 1024),
            "demo_coding_vs_intergenomic_seqs": (75_000, 25_000, 200),
            "demo_human_or_worm": (75_000, 25_000, 200),
            "human_enhancers_cohn": (20_843, 6_948, 500),
            "human_enhancers_ensembl": (123_872, 30_970, 512),
            "human_ensembl_regulatory": (231_348, 57_713, 512),
            "human_nontata_promoters": (27_097, 9_034, 251),
            "human_ocr_ensembl": (139_804, 34_952, 512),
        }

    def test_classes_have_published_counts(self):
        two = ("negative", "positive")
        counts = {
            name: [(kind, task.train[kind], task.test[kind]) for kind in task.classes]
            for name, task in TASKS.items()
        }
        assert counts == {
            "dummy_mouse_enhancers_ensembl": [(kind, 484, 121) for kind in two],
            "demo_coding_vs_intergenomic_seqs": [
                (kind, 37_500, 12_500) for kind in ("coding_seqs", "intergenomic_seqs")
            ],
            "demo_human_or_worm": [(kind, 37_500, 12_500) for kind in ("human", "worm")],
            "human_enhancers_cohn": [("negative", 10_422, 3474), ("positive", 10_421, 3474)],
            "human_enhancers_ensembl": [(kind, 61_936, 15_485) for kind in two],
            "human_ensembl_regulatory": [
                ("enhancer", 85_512, 21_378),
                ("ocr", 69_902, 17_476),
                ("promoter", 75_934, 18_859),
            ],
            "human_nontata_promoters": [("negative", 12_355, 4119), ("positive", 14_742, 4915)],
            "human_ocr_ensembl": [(kind, 69_902, 17_476) for kind in two],
        }
        assert all(list(task.test) == list(task.train) for task in TASKS.values())


class TestCheckBenchmarks:
    def error(self, folder):
        with pytest.raises(ValueError) as error:
            check_benchmarks(folder)
            survey_benchmarks(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_check_and_survey_accept_complete_data(self, benchmarks):
        (benchmarks / "demo_human_or_worm" / "train" / ".DS_Store").write_text("")
        check_benchmarks(benchmarks)
        survey_benchmarks(benchmarks)

    def test_check_benchmarks_names_missing_tasks(self, benchmarks):
        for name in ("human_enhancers_cohn", "human_ocr_ensembl"):
            shutil.rmtree(benchmarks / name)
        message = self.error(benchmarks)
        assert message == (
            f"{benchmarks} lacks 2 of the 8 tasks: human_enhancers_cohn, human_ocr_ensembl; {FETCH}"
        )
        task = benchmarks / "demo_human_or_worm"
        assert self.error(task) == (
            f"{task} lacks 8 of the 8 tasks: {', '.join(TASKS)} (it seems to be one task: use its "
            f"parent folder {benchmarks}); {FETCH}"
        )

    def test_check_benchmarks_names_missing_class(self, benchmarks):
        shutil.rmtree(benchmarks / "human_ensembl_regulatory" / "test" / "ocr")
        assert self.error(benchmarks) == (
            f"{benchmarks / 'human_ensembl_regulatory' / 'test'} has the classes enhancer, "
            "promoter; expected enhancer, ocr, promoter: it is another task, or was not unpacked "
            f"completely. {FETCH}"
        )
        for kind in ("enhancer", "promoter"):
            shutil.rmtree(benchmarks / "human_ensembl_regulatory" / "test" / kind)
        assert "has the classes none; expected enhancer, ocr, pr" in self.error(benchmarks)

    def test_check_benchmarks_names_missing_split(self, benchmarks):
        shutil.rmtree(benchmarks / "human_enhancers_cohn" / "test")
        assert self.error(benchmarks) == (
            f"{benchmarks / 'human_enhancers_cohn'} has no folder test; {LAYOUT}. {FETCH}"
        )

    def test_check_benchmarks_refuses_another_task(self, benchmarks):
        shutil.rmtree(benchmarks / "human_enhancers_cohn")
        shutil.copytree(benchmarks / "demo_human_or_worm", benchmarks / "human_enhancers_cohn")
        assert "has the classes human, worm; expected negative, positive" in self.error(benchmarks)

    def test_survey_benchmarks_names_wrong_counts(self, benchmarks):
        (benchmarks / "demo_human_or_worm" / "train" / "worm" / "1.txt").unlink()
        (benchmarks / "human_ocr_ensembl" / "test" / "negative" / "7.txt").write_text("ACGT")
        assert self.error(benchmarks) == (
            f"{benchmarks} has other numbers of sequences than GenomicBenchmarks: "
            "demo_human_or_worm/train/worm has 2, not 3; human_ocr_ensembl/test/negative has 3, "
            f"not 2. Unpack these tasks again, or {FETCH}"
        )

    def test_survey_benchmarks_refuses_other_files(self, benchmarks):
        (benchmarks / "demo_human_or_worm" / "test" / "worm" / "worm.zip").write_text("")
        assert self.error(benchmarks) == (
            f"{benchmarks / 'demo_human_or_worm' / 'test' / 'worm'} has worm.zip; {LAYOUT}: move "
            "other files out"
        )

    def test_survey_benchmarks_refuses_pointers(self, benchmarks):
        file = benchmarks / "demo_human_or_worm" / "test" / "worm" / "0.txt"
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
        assert f"{file} is a pointer of git-lfs" in self.error(benchmarks)

    def test_survey_benchmarks_opens_ten_files_of_every_class(self, benchmarks, monkeypatch):
        calls = []
        monkeypatch.setattr(
            genomic_benchmarks,
            "refuse_pointers",
            lambda files, most: calls.append((len(files), most)),
        )
        survey_benchmarks(benchmarks)
        classes = sum(len(task.classes) for task in TASKS.values())
        assert sorted(calls) == [(2, 10)] * classes + [(3, 10)] * classes


class TestReadTask:
    def test_read_task_labels_sorted_classes(self, task):
        read = read_task(task, CLASSES)
        assert read.classes == CLASSES
        letters, ends, labels = read.split("train")
        assert labels.tolist() == [0, 0, 1, 1]
        assert ends.tolist() == [12, 32, 45, 65]
        longer = b"ACG" * 5 + b"acgtn"
        assert letters.tobytes() == b"ACG" * 4 + longer + b"ACG" * 4 + b"A" + longer

    def test_read_task_accepts_two_letters(self, task):
        (task / "train" / "positive" / "0.txt").write_text("AC")
        assert read_task(task, CLASSES).split("train").ends.tolist() == [12, 32, 34, 54]

    def test_read_task_names_empty_file(self, task):
        (task / "test" / "positive" / "0.txt").write_text("\n")
        assert read_error(task) == (
            f"{task / 'test' / 'positive' / '0.txt'} is empty; expected a sequence of bases. "
            "Unpack its task again"
        )

    @pytest.mark.parametrize(
        "content, letter",
        [("ACGT\nACGT", "'\\n'"), (">name\nACGT", "'>'"), ("MKLV", "'L'"), ("<html>", "'<'")],
        ids=["two lines", "FASTA", "protein", "web page"],
    )
    def test_read_task_names_file_without_bases(self, task, content, letter):
        (task / "train" / "negative" / "1.txt").write_text(content)
        message = read_error(task)
        assert message == (
            f"{task / 'train' / 'negative' / '1.txt'} has {letter}; expected one sequence of bases"
        )

    def test_read_task_names_class_without_sequences(self, task):
        for file in (task / "test" / "negative").iterdir():
            file.unlink()
        assert read_error(task) == (
            f"{task / 'test' / 'negative'} has no sequences; expected one in each file "
            "<number>.txt. Unpack its task again"
        )

    def test_read_task_refuses_other_classes(self, task):
        assert "has the classes negative, positive; expected human, worm" in read_error(
            task, ("human", "worm")
        )

    def test_read_task_stops_when_asked(self, task):
        def stop():
            raise InterruptedError

        with pytest.raises(InterruptedError):
            read_task(task, CLASSES, stop)


class TestPack:
    def test_read_packed_inverts_pack(self, task, tmp_path):
        (tmp_path / benchmark_files.PACK_FOLDER).mkdir()
        read = read_task(task, CLASSES)
        pack(read, tmp_path / benchmark_files.PACK_FOLDER / "task.npz")
        packed = read_packed(tmp_path, "task")
        assert packed.classes == read.classes
        for split in ("train", "test"):
            for ours, expected in zip(packed.split(split), read.split(split), strict=True):
                np.testing.assert_array_equal(ours, expected)

    def test_read_packed_refuses_missing_and_damaged_file(self, task, tmp_path):
        file = tmp_path / benchmark_files.PACK_FOLDER / "task.npz"
        assert refused(read_packed, tmp_path, "task") == (
            f"there is no packed task {file}; prepare task first"
        )
        file.parent.mkdir()
        pack(read_task(task, CLASSES), file)
        os.truncate(file, file.stat().st_size // 2)
        message = refused(read_packed, tmp_path, "task")
        assert message.startswith(f"{file} is damaged (")
        assert message.endswith(f"); delete {tmp_path} and submit again")


class TestDefects:
    def test_defects_counts_overlap_and_short_sequences(self, task):
        train = (task / "train" / "positive" / "0.txt").read_text()
        (task / "test" / "negative" / "2.txt").write_text(train.lower())
        (task / "train" / "negative" / "2.txt").write_text("AC")
        (task / "test" / "negative" / "3.txt").write_text("ACGTACGTRY")
        assert defects("task", read_task(task, CLASSES)) == [
            "task: 1 of 6 test sequences are also in training",
            "task: 1 of 11 sequences have fewer than 10 bases, the shortest 2",
            "task: 1 of 11 sequences have letters other than A, C, G, T and N, which are read as "
            "[UNK]",
        ]

    def test_defects_begin_below_ten_bases_and_with_letters_of_any_case(self, task):
        for name, letters in (
            ("2.txt", "ACGTACGTA"),
            ("3.txt", "ACGTACGTAC"),
            ("4.txt", "acgtN" * 3),
        ):
            (task / "test" / "negative" / name).write_text(letters)
        (task / "test" / "negative" / "5.txt").write_text("acgtacgtry")
        assert [sentence[:30] for sentence in defects("task", read_task(task, CLASSES))] == [
            "task: 1 of 12 sequences have f",
            "task: 1 of 12 sequences have l",
        ]

    def test_defects_of_good_task_are_none(self, task):
        assert defects("task", read_task(task, CLASSES)) == []
