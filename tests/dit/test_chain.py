"""A chain of runs that is killed again and again ends with the number of one that never was."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from dyt_dit import digits_features, latents, reference, sampling, scoring, training
from dyt_dit.config import DigitsClassifier, Reference, Scoring

from .tiny import DYT, ENCODING, SAMPLING, TRAINING, in_a_process, run

pytestmark = pytest.mark.slow

LINKS = {
    "latents": (latents.encode, replace(ENCODING, shard=300), ()),
    "classifier": (digits_features.train, DigitsClassifier(hidden=(16,)), ()),
    "reference": (
        reference.measure,
        Reference(data=("digits",), extractor="digits", image_size=8, kept=200, shard=300),
        ("classifier",),
    ),
    "trained": (
        training.train,
        replace(TRAINING, norm=DYT, zero_init=False, epochs=1),
        ("latents",),
    ),
    "samples": (sampling.generate, replace(SAMPLING, norm=DYT, batch=10), ("trained",)),
    "score": (
        scoring.score,
        Scoring(extractor="digits", shard=10),
        ("samples", "classifier", "reference"),
    ),
}
"""Name → task, config, what it needs; in an order in which they can be run."""

MADE = {latents.Encoder: "make", sampling.Sampler: "__call__", scoring.Scorer: "make"}
"""Where the files of a link are computed."""


def submit(folder):
    """Compute what has no result yet, as a submission does, and note every file that is made."""
    for kind, method in MADE.items():
        setattr(kind, method, noting(folder, getattr(kind, method)))
    for name, (task, config, needs) in LINKS.items():
        if not (folder / name / "result.json").exists():
            where = {need: folder / need for need in needs}
            run(task, folder / name, config, needs=where, checkpoint_steps=4)


def noting(folder, make):
    def noted(self, name, path):
        make(self, name, path)
        with (folder / "made.txt").open("a", encoding="utf-8") as file:
            file.write(f"{type(self).__name__} {name}\n")

    return noted


def killed_before_write(number):
    """The process kills itself before it gives the ``number``-th file its name."""
    whole, written = Path.replace, []

    def rename(path, target):
        written.append(target)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path, target)

    Path.replace = rename
    return written


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a chain computed in one go, and how many files it has written."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def work():
        written = killed_before_write(0)
        submit(folder)
        (folder / "count.txt").write_text(str(len(written)), encoding="utf-8")

    assert in_a_process(work) == 0
    return folder, int((folder / "count.txt").read_text(encoding="utf-8"))


def results(folder):
    return [json.loads((folder / name / "result.json").read_text()) for name in LINKS]


@pytest.mark.parametrize("share", [0.03, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97])
def test_killed_once_anywhere_it_ends_the_same_and_makes_nothing_twice(
    undisturbed, tmp_path, share
):
    there, count = undisturbed
    number = max(1, round(share * count))

    def work():
        killed_before_write(number)
        submit(tmp_path)

    assert in_a_process(work) == -signal.SIGKILL
    assert in_a_process(lambda: submit(tmp_path)) == 0
    assert results(tmp_path) == results(there)
    made = (tmp_path / "made.txt").read_text(encoding="utf-8").splitlines()
    expected = (there / "made.txt").read_text(encoding="utf-8").splitlines()
    # The one that was at work when the process was killed.
    assert set(made) == set(expected) and len(made) <= len(expected) + 1
    for name in ("weights.pt", "samples.npz", "samples.png"):
        (one,), (other,) = (list(folder.glob(f"*/{name}")) for folder in (tmp_path, there))
        assert one.read_bytes() == other.read_bytes()


def test_killed_at_every_tenth_file_it_comes_to_its_end(undisturbed, tmp_path):
    there, count = undisturbed

    def work():
        killed_before_write(10)
        submit(tmp_path)

    kills = 0
    while in_a_process(work) == -signal.SIGKILL:
        kills += 1
        assert kills < count, "it makes no progress"
    assert kills > 5 and results(tmp_path) == results(there)
