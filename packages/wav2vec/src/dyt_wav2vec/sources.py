"""Data sources of pretraining and the expected layout of their folders; imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from matched import DataSource

SAMPLE_RATE = 16_000
"""Sampling rate in Hz of LibriSpeech, and the one that fairseq's task expects."""
ARCHIVE_FOLDER = "LibriSpeech"
"""Top-level folder of every LibriSpeech archive."""


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Size of one of LibriSpeech's archives.

    Speakers are from Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio
    books" (2015), Table 1; utterances are the FLAC files of the archive.
    """

    speakers: int
    utterances: int


TRAIN_SUBSETS = {
    "train-clean-100": Subset(speakers=251, utterances=28_539),
    "train-clean-360": Subset(speakers=921, utterances=104_014),
    "train-other-500": Subset(speakers=1_166, utterances=148_688),
}
"""The 960 hours on which wav2vec 2.0 is pretrained."""

LAYOUT = (
    f"expected the layout of its archives: {ARCHIVE_FOLDER}/<subset>/<speaker>/<chapter>/*.flac "
    f"with the subsets {', '.join(TRAIN_SUBSETS)}"
)


def check_librispeech(path: Path) -> None:
    """Check that all subsets are there with all their speakers, without opening an utterance.

    Raises:
        ValueError: if something is missing; the message has the expected layout.
    """
    corpus = path / ARCHIVE_FOLDER
    if not corpus.is_dir():
        too_deep = path.name == ARCHIVE_FOLDER or any(
            (path / name).is_dir() for name in TRAIN_SUBSETS
        )
        hint = f" (use its parent folder: {path.parent})" if too_deep else ""
        raise ValueError(f"{path} has no folder {ARCHIVE_FOLDER}/{hint}; {LAYOUT}")
    if missing := [name for name in TRAIN_SUBSETS if not (corpus / name).is_dir()]:
        raise ValueError(f"{corpus} lacks {', '.join(missing)}; {LAYOUT}")
    for name, expected in TRAIN_SUBSETS.items():
        speakers = [entry.name for entry in os.scandir(corpus / name) if entry.is_dir()]
        if len(speakers) != expected.speakers:
            raise ValueError(
                f"{corpus / name} has {len(speakers)} speaker folders, not {expected.speakers}; "
                f"unpack its archive completely. {LAYOUT}"
            )


def check_folder(path: Path) -> None:
    """Check that the folder exists; preparation checks its files.

    Raises:
        ValueError: if it does not.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; expected a folder of FLAC or WAV files")


SYNTHETIC_SPEECH = DataSource(title="synthetic speech (8 voices, 240 utterances of 2–4 s)")
LIBRISPEECH = DataSource(title="LibriSpeech (960 h)", check=check_librispeech)
SPEECH_FOLDER = DataSource(title="a folder of speech", check=check_folder)
