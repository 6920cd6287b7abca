"""Fixtures of the speech tests: small corpora, files to break, and runs to compare with."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from dyt_wav2vec import sources, speech
from dyt_wav2vec.preparation import prepare
from matched.task import Context

from .problem import SPEECH, pretrained

SMALL = speech.Corpus(seed=3, train=5, valid=2, voices=3)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with a few utterances of synthetic speech; not to be written to."""
    folder = tmp_path_factory.mktemp("speech") / "corpus"
    speech.write(folder, SMALL)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The directory of a run that has prepared synthetic speech."""
    directory = tmp_path_factory.mktemp("prepared")
    prepare(Context(directory=directory, signature="prepared"), SPEECH)
    return directory


@pytest.fixture(scope="session")
def undisturbed(prepared, tmp_path_factory):
    """The pretraining of ``CONFIG`` from the first update to the last without a break."""
    return pretrained(tmp_path_factory.mktemp("undisturbed"), prepared)


@pytest.fixture
def noise():
    """Writes a file of noise: (path, frames, rate, channels)."""

    def write(path, frames=4000, rate=16_000, channels=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(0).normal(0, 1000, (frames, channels)).astype(np.int16)
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return path

    return write


@pytest.fixture
def librispeech(tmp_path, monkeypatch, noise):
    """A folder laid out as LibriSpeech is, two speakers and six utterances in each split."""
    splits = {split: sources.Split(speakers=2, utterances=6) for split in sources.TRAIN}
    monkeypatch.setattr(sources, "TRAIN", splits)
    for place, split in enumerate(splits):
        for number in range(6):
            speaker, chapter = 10 * place + number % 2, 100 + number % 2
            name = f"{speaker}-{chapter}-{number:04d}.flac"
            noise(
                tmp_path / "LibriSpeech" / split / str(speaker) / str(chapter) / name,
                1000 + 10 * place + number,
            )
    (tmp_path / "LibriSpeech" / "dev-other").mkdir()
    return tmp_path, splits


@pytest.fixture
def heard(caplog, monkeypatch):
    """What the harness's log was told."""
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="matched")
    return caplog
