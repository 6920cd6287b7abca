"""Fixtures of the speech tests: small corpora, damaged files and reference runs."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from dyt_wav2vec import sources, synthetic_speech
from dyt_wav2vec.preparation import prepare
from matched.task import Context

from .problem import SPEECH, pretrained

SMALL = synthetic_speech.Corpus(seed=3, train=5, valid=2, voices=3)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder with a few utterances of synthetic speech; read-only."""
    folder = tmp_path_factory.mktemp("speech") / "corpus"
    synthetic_speech.write_corpus(folder, SMALL)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Run directory of a preparation of synthetic speech."""
    directory = tmp_path_factory.mktemp("prepared")
    prepare(Context(directory=directory, signature="prepared"), SPEECH)
    return directory


@pytest.fixture(scope="session")
def uninterrupted(prepared, tmp_path_factory):
    """Pretraining of ``CONFIG`` without interruption."""
    return pretrained(tmp_path_factory.mktemp("uninterrupted"), prepared)


@pytest.fixture
def noise():
    """Function that writes a file of noise: (path, frames, rate, channels)."""

    def write(path, frames=4000, rate=16_000, channels=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(0).normal(0, 1000, (frames, channels)).astype(np.int16)
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return path

    return write


@pytest.fixture
def librispeech(tmp_path, monkeypatch, noise):
    """Folder with LibriSpeech's layout, two speakers and six utterances in each subset."""
    subsets = {name: sources.Subset(speakers=2, utterances=6) for name in sources.TRAIN_SUBSETS}
    monkeypatch.setattr(sources, "TRAIN_SUBSETS", subsets)
    for index, subset in enumerate(subsets):
        for number in range(6):
            speaker, chapter = 10 * index + number % 2, 100 + number % 2
            folder = tmp_path / "LibriSpeech" / subset / str(speaker) / str(chapter)
            name = f"{speaker}-{chapter}-{number:04d}"
            noise(folder / f"{name}.flac", 1000 + 10 * index + number)
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as transcripts:
                transcripts.write(f"{name} A FEW WORDS\n")
    (tmp_path / "LibriSpeech" / "dev-other").mkdir()
    return tmp_path, subsets


@pytest.fixture
def harness_log(caplog, monkeypatch):
    """Warnings of the harness's logger."""
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="matched")
    return caplog
