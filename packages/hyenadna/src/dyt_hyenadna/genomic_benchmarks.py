"""The eight tasks of GenomicBenchmarks, and checks of their folders; no torch.

Grešová et al., "Genomic benchmarks: a collection of datasets for genomic sequence classification"
(2023). A task is a folder <task>/{train,test}/<class>/<number>.txt with one sequence per file. The
counts are those of the interval lists in the package's repository (version 1.0.0), and the longest
inputs those of HyenaDNA's and Caduceus's configs. The package itself is not used: it contains no
sequences, and needs the network even for data that is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyt_hyenadna.genome import some
from matched.data_files import list_entries, list_files, list_folders, refuse_pointers

SPLITS = ("train", "test")
SUFFIX = ".txt"
FETCH = (
    "get <task>_v0.zip of every task from the GenomicBenchmarks record on Zenodo (see "
    "packages/hyenadna/README.md) and unpack them into one folder"
)
LAYOUT = "expected <task>/{train,test}/<class>/<number>.txt"


@dataclass(frozen=True, kw_only=True)
class BenchmarkTask:
    """A classification task.

    Attributes:
        train, test: class → number of sequences, sorted by class: the order of the labels.
        max_length: bases of the model's input; longer sequences are cut, shorter ones padded.
    """

    train: Mapping[str, int]
    test: Mapping[str, int]
    max_length: int

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train)


def _task(max_length: int, **counts: tuple[int, int]) -> BenchmarkTask:
    train, test = ({name: count[i] for name, count in counts.items()} for i in range(2))
    return BenchmarkTask(train=train, test=test, max_length=max_length)


TASKS = {
    "dummy_mouse_enhancers_ensembl": _task(1024, negative=(484, 121), positive=(484, 121)),
    "demo_coding_vs_intergenomic_seqs": _task(
        200, coding_seqs=(37_500, 12_500), intergenomic_seqs=(37_500, 12_500)
    ),
    "demo_human_or_worm": _task(200, human=(37_500, 12_500), worm=(37_500, 12_500)),
    "human_enhancers_cohn": _task(500, negative=(10_422, 3_474), positive=(10_421, 3_474)),
    "human_enhancers_ensembl": _task(512, negative=(61_936, 15_485), positive=(61_936, 15_485)),
    "human_ensembl_regulatory": _task(
        512, enhancer=(85_512, 21_378), ocr=(69_902, 17_476), promoter=(75_934, 18_859)
    ),
    "human_nontata_promoters": _task(251, negative=(12_355, 4_119), positive=(14_742, 4_915)),
    "human_ocr_ensembl": _task(512, negative=(69_902, 17_476), positive=(69_902, 17_476)),
}
"""Name → task, in the order of the papers' tables."""


def check_benchmarks(path: Path) -> None:
    """Check that all tasks have their folders; files are not listed.

    Raises:
        ValueError: naming missing tasks, or the first folder with other classes than its task.
    """
    if missing := [task for task in TASKS if not (path / task).is_dir()]:
        inner = [entry for entry in ("train", "test") if (path / entry).is_dir()]
        hint = f" (it seems to be one task: use its parent folder {path.parent})" if inner else ""
        raise ValueError(
            f"{path} lacks {len(missing)} of the {len(TASKS)} tasks: {some(missing, len(TASKS))}"
            f"{hint}; {FETCH}"
        )
    for name, task in TASKS.items():
        check_task(path / name, task.classes)


def check_task(folder: Path, classes: tuple[str, ...]) -> None:
    """Check the two levels of folders of a task.

    Raises:
        ValueError: if they are not train and test with these classes.
    """
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise ValueError(f"{folder} has no folder {split}; {LAYOUT}. {FETCH}")
        found = tuple(list_folders(folder / split))
        if found != classes:
            raise ValueError(
                f"{folder / split} has the classes {', '.join(found) or 'none'}; expected "
                f"{', '.join(classes)}: it is another task, or was not unpacked completely. {FETCH}"
            )


def survey_benchmarks(path: Path) -> None:
    """Count the sequences of every class of the eight tasks, without opening them.

    Raises:
        ValueError: naming every class with another number of sequences than published, or a
            pointer of git-lfs or git-annex.
    """
    wrong = []
    for name, task in TASKS.items():
        for split in SPLITS:
            for kind, expected in getattr(task, split).items():
                files = sequence_files(path / name / split / kind)
                refuse_pointers(files, most=10)
                if len(files) != expected:
                    wrong.append(f"{name}/{split}/{kind} has {len(files):,}, not {expected:,}")
    if wrong:
        raise ValueError(
            f"{path} has other numbers of sequences than GenomicBenchmarks: {'; '.join(wrong)}. "
            f"Unpack these tasks again, or {FETCH}"
        )


def sequence_files(folder: Path) -> list[str]:
    """Return the paths of a class's sequences, sorted by name.

    Raises:
        ValueError: if the folder has files of another kind, or folders.
    """
    files = list_files(folder, (SUFFIX,))
    names = {os.path.basename(file) for file in files}
    if odd := [entry.name for entry in list_entries(folder) if entry.name not in names]:
        raise ValueError(f"{folder} has {some(odd)}; {LAYOUT}: move other files out")
    return files
