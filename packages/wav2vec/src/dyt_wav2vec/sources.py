"""Data sources of pretraining, the layout of their folders and lists of their files; no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dyt_wav2vec import fairseq_compat
from matched import DataSource
from matched.data_files import list_files, list_folders, refuse_pointer, refuse_pointers

SAMPLE_RATE = 16_000
"""Sampling rate in Hz of LibriSpeech, and the one that fairseq's task expects."""
ARCHIVE_FOLDER = "LibriSpeech"
"""Top-level folder of every LibriSpeech archive."""
SUFFIXES = (".flac", ".wav")
MAX_UNUSABLE_SHARE = 0.001
"""Share of the training files that may be missing or left out."""
MAX_NAMES = 3
"""Names listed in a message about many."""


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
        speakers = list_folders(corpus / name)
        if odd := [speaker for speaker in speakers if not speaker.isdecimal()]:
            raise ValueError(
                f"{corpus / name} has folders that are not a speaker's number: "
                f"{', '.join(odd[:MAX_NAMES])}; move them out. {LAYOUT}"
            )
        if len(speakers) != expected.speakers:
            raise ValueError(
                f"{corpus / name} has {len(speakers)} speaker folders, not {expected.speakers}; "
                f"unpack its archive completely. {LAYOUT}"
            )


def survey_librispeech(path: Path) -> None:
    """Count the utterances of all subsets, and check some for pointers of git-lfs and git-annex.

    Raises:
        ValueError: as ``librispeech_files``, or for a pointer.
    """
    for name, expected in TRAIN_SUBSETS.items():
        folder = path / ARCHIVE_FOLDER / name
        refuse_pointers([folder / file for file in librispeech_files(folder, expected)])


def librispeech_files(folder: Path, expected: Subset) -> list[str]:
    """Return the sorted paths, with slashes, of a subset's utterances below its folder.

    They are those that torchaudio lists, except that hidden and system files and folders are passed
    over. Transcripts are not needed.

    Raises:
        ValueError: if the folder is missing, a file's name is not an utterance's, or more than
            0.1 % of the utterances (and more than one) are missing.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected LibriSpeech's {folder.name}")
    names = [name for name in _files_below(folder, (".flac",)) if name.count("/") == 2]
    for name in names:
        speaker, chapter, utterance = name.removesuffix(".flac").split("/")
        if utterance.split("-")[:-1] != [speaker, chapter]:
            raise ValueError(
                f"{folder} has the file {name}; expected names of the form "
                "<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac"
            )
    if expected.utterances - len(names) > max_unusable(expected.utterances):
        raise ValueError(
            f"{folder} has {len(names)} FLAC files, not {expected.utterances}; "
            "unpack its archive completely"
        )
    return names


def max_unusable(files: int) -> int:
    """Return how many of this many training files may be missing or unusable: at least one."""
    return max(1, int(MAX_UNUSABLE_SHARE * files))


def find_audio_files(folder: Path) -> list[str]:
    """Return the sorted paths, with slashes, of all FLAC and WAV files below a folder.

    Files are listed as ``matched.data_files.list_files`` does: each once, without hidden and system
    files and folders.

    Raises:
        ValueError: if there are none, a folder may not be read, or a name cannot be written to a
            manifest.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected a folder of FLAC or WAV files")
    names = _files_below(folder, SUFFIXES)
    if not names:
        raise ValueError(f"{folder} has no *.flac or *.wav files at any depth")
    return names


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    prefix = len(os.path.join(folder, ""))  # pathlib would take seconds for LibriSpeech
    names = sorted(path[prefix:] for path in list_files(folder, suffixes))
    _check_printable(folder, names)
    return names


def _check_printable(folder: Path, names: Sequence[str]) -> None:
    if bad := [name for name in names if not name.isprintable() or name != name.strip()]:
        raise ValueError(
            f"{folder} has the file {bad[0]!r}, whose name cannot be written to a manifest; "
            "rename it"
        )


def check_folder(path: Path) -> None:
    """Check that the folder exists; a survey lists its files, and preparation opens them.

    Raises:
        ValueError: if it does not.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; expected a folder of FLAC or WAV files")


def survey_folder(path: Path) -> None:
    """List the audio files of a folder, and check some for pointers of git-lfs and git-annex.

    Raises:
        ValueError: as ``find_audio_files``, or for a pointer.
    """
    refuse_pointers([path / file for file in find_audio_files(path)])


def check_weights(path: Path) -> None:
    """Check that there is a file of weights, and not a pointer of git-lfs or git-annex.

    Raises:
        ValueError: if there is none.
    """
    refuse_pointer(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; expected fairseq's checkpoint of wav2vec 2.0 Large, "
            "libri960_big.pt"
        )


REFUSAL = fairseq_compat.python_refusal()
SYNTHETIC_SPEECH = DataSource(
    title="synthetic speech (8 voices, 240 utterances of 2–4 s)", refusal=REFUSAL
)
LIBRISPEECH = DataSource(
    title="LibriSpeech (960 h)",
    check=check_librispeech,
    survey=survey_librispeech,
    refusal=REFUSAL,
)
WAV2VEC2_LARGE_WEIGHTS = DataSource(
    title="released weights of wav2vec 2.0 Large", check=check_weights, refusal=REFUSAL
)
SPEECH_FOLDER = DataSource(
    title="a folder of speech", check=check_folder, survey=survey_folder, refusal=REFUSAL
)
