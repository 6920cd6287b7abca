"""The speech that pretraining reads, and what its folder must look like; imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from matched import DataSource

INSIDE = "LibriSpeech"
"""The folder in which every archive of LibriSpeech unpacks itself."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One of LibriSpeech's archives: how many speakers and utterances are in it.

    Speakers are those of Panayotov et al., "LibriSpeech: an ASR corpus based on public domain
    audio books" (2015), Table 1; utterances are the FLAC files of the archive.
    """

    speakers: int
    utterances: int


TRAIN = {
    "train-clean-100": Split(speakers=251, utterances=28_539),
    "train-clean-360": Split(speakers=921, utterances=104_014),
    "train-other-500": Split(speakers=1_166, utterances=148_688),
}
"""The 960 hours on which wav2vec 2.0 is pretrained."""

LAYOUT = (
    f"expected LibriSpeech as its archives unpack: {INSIDE}/<split>/<speaker>/<chapter>/*.flac "
    f"with the splits {', '.join(TRAIN)}"
)


def check_librispeech(path: Path) -> None:
    """Look at the splits and their speakers; the utterances themselves are not opened.

    Raises:
        ValueError: saying what is missing and what layout is expected.
    """
    inside = path / INSIDE
    if not inside.is_dir():
        above = path.name == INSIDE or any((path / split).is_dir() for split in TRAIN)
        hint = f" (name the folder above: {path.parent})" if above else ""
        raise ValueError(f"{path} has no folder {INSIDE}/{hint}; {LAYOUT}")
    if missing := [split for split in TRAIN if not (inside / split).is_dir()]:
        raise ValueError(f"{inside} lacks {', '.join(missing)}; {LAYOUT}")
    for split, expected in TRAIN.items():
        speakers = [entry.name for entry in os.scandir(inside / split) if entry.is_dir()]
        if len(speakers) != expected.speakers:
            raise ValueError(
                f"{inside / split} has {len(speakers)} folders of speakers, not "
                f"{expected.speakers}; is its archive wholly unpacked? {LAYOUT}"
            )


def check_folder(path: Path) -> None:
    """
    Raises:
        ValueError: if there is no such folder. What is in it is looked at by preparation.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected one with FLAC or WAV files in it")


SYNTHETIC_SPEECH = DataSource(title="synthetic speech (8 voices, 240 utterances of 2–4 s)")
LIBRISPEECH = DataSource(title="LibriSpeech (960 h)", check=check_librispeech)
SPEECH_FOLDER = DataSource(title="a folder of speech", check=check_folder)
