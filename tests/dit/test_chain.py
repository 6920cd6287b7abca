"""Kill and resume tests of a whole chain of runs, from latents to FID."""

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
    "latents": (latents.encode, replace(ENCODING, images_per_file=300), ()),
    "classifier": (digits_features.train, DigitsClassifier(hidden=(16,)), ()),
    "reference": (
        reference.measure,
        Reference(
            data=("digits",), extractor="digits", image_size=8, kept=200, images_per_file=300
        ),
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
        Scoring(extractor="digits", images_per_file=10),
        ("samples", "classifier", "reference"),
    ),
}
"""Name → (task, config, needs), in an order in which they can run."""

FILE_WRITERS = {
    latents.LatentEncoder: "write_file",
    sampling.ImageSampler: "__call__",
    scoring.Scorer: "write_file",
}
"""Class → method that computes one file of a run."""


def submit(folder):
    """Run all links without a result, as a submission does, and record every computed file."""
    for cls, method in FILE_WRITERS.items():
        setattr(cls, method, recording(folder, getattr(cls, method)))
    for name, (task, config, needs) in LINKS.items():
        if not (folder / name / "result.json").exists():
            where = {need: folder / need for need in needs}
            run(task, folder / name, config, needs=where, checkpoint_steps=4)


def recording(folder, write_file):
    def recorded(self, name, path):
        write_file(self, name, path)
        with (folder / "written.txt").open("a", encoding="utf-8") as file:
            file.write(f"{type(self).__name__} {name}\n")

    return recorded


def killed_before_write(number):
    """Make this process kill itself before it renames its ``number``-th temporary file."""
    replace_file, written = Path.replace, []

    def rename(path, target):
        written.append(target)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace_file(path, target)

    Path.replace = rename
    return written


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of a chain that was not interrupted, and the number of files it wrote."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    def work():
        written = killed_before_write(0)
        submit(folder)
        (folder / "count.txt").write_text(str(len(written)), encoding="utf-8")

    assert in_a_process(work) == 0
    return folder, int((folder / "count.txt").read_text(encoding="utf-8"))


def results(folder):
    return [json.loads((folder / name / "result.json").read_text()) for name in LINKS]


@pytest.mark.parametrize("share", [0.03, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97])
def test_chain_killed_once_resumes_to_identical_results(uninterrupted, tmp_path, share):
    expected_folder, count = uninterrupted
    number = max(1, round(share * count))

    def work():
        killed_before_write(number)
        submit(tmp_path)

    assert in_a_process(work) == -signal.SIGKILL
    assert in_a_process(lambda: submit(tmp_path)) == 0
    assert results(tmp_path) == results(expected_folder)
    written = (tmp_path / "written.txt").read_text(encoding="utf-8").splitlines()
    expected = (expected_folder / "written.txt").read_text(encoding="utf-8").splitlines()
    # Only the file in progress when the process was killed may be computed twice.
    assert set(written) == set(expected) and len(written) <= len(expected) + 1
    for name in ("weights.pt", "samples.npz", "samples.png"):
        (one,), (other,) = (
            list(folder.glob(f"*/{name}")) for folder in (tmp_path, expected_folder)
        )
        assert one.read_bytes() == other.read_bytes()


def test_chain_killed_at_every_tenth_file_completes(uninterrupted, tmp_path):
    expected_folder, count = uninterrupted

    def work():
        killed_before_write(10)
        submit(tmp_path)

    kills = 0
    while in_a_process(work) == -signal.SIGKILL:
        kills += 1
        assert kills < count, "the chain makes no progress"
    assert kills > 5 and results(tmp_path) == results(expected_folder)
