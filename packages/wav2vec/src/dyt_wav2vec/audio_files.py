"""Audio files on disk: lists of their names, and checks of their headers and last samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
from torchaudio.datasets import LIBRISPEECH

from dyt_wav2vec.sources import ARCHIVE_FOLDER, SAMPLE_RATE

SUFFIXES = (".flac", ".wav")


class _Utterances(LIBRISPEECH):
    """torchaudio's LibriSpeech without its transcripts.

    Pretraining needs the paths alone. The public ``get_metadata`` also reads the transcript file of
    each utterance's chapter, which is one more open per utterance and fails where only the audio
    was kept.
    """

    def paths(self) -> list[str]:
        """Return the paths below the subset's folder, as ``get_metadata`` forms them."""
        names = (name for name in self._walker if not name.startswith("."))
        return [self._path_of(name) for name in names]

    def _path_of(self, name: str) -> str:
        try:
            speaker, chapter, _ = name.split("-")
        except ValueError:
            raise ValueError(
                f"{self._path} has the file {name}{self._ext_audio}; expected names of the form "
                f"<speaker>-<chapter>-<utterance>{self._ext_audio}"
            ) from None
        return f"{speaker}/{chapter}/{name}{self._ext_audio}"


def librispeech_files(path: Path, subset: str) -> list[str]:
    """Return the sorted paths, with slashes, of a subset's utterances below its folder.

    Hidden files are skipped.

    Args:
        path: folder that contains ``LibriSpeech``.
        subset: a name that ``torchaudio.datasets.LIBRISPEECH`` accepts.

    Raises:
        ValueError: if the subset's folder is missing or a file's name is not an utterance's.
    """
    folder = path / ARCHIVE_FOLDER / subset
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected LibriSpeech's {subset}")
    names = _Utterances(path, url=subset, folder_in_archive=ARCHIVE_FOLDER).paths()
    _check_printable(folder, names)
    return sorted(names)


def find_audio_files(folder: Path) -> list[str]:
    """Return the sorted paths, with slashes, of all FLAC and WAV files below a folder.

    Hidden files are skipped.

    Raises:
        ValueError: if there are none, or a name cannot be written to a manifest.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected a folder of FLAC or WAV files")
    names = [
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder, followlinks=True)
        for name in files
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not names:
        raise ValueError(f"{folder} has no *.flac or *.wav files at any depth")
    _check_printable(folder, names)
    return sorted(names)


def _check_printable(folder: Path, names: Sequence[str]) -> None:
    if bad := [name for name in names if not name.isprintable() or name != name.strip()]:
        raise ValueError(
            f"{folder} has the file {bad[0]!r}, whose name cannot be written to a manifest; "
            "rename it"
        )


@dataclass(frozen=True, kw_only=True)
class AudioHeader:
    """Properties from a file's header; a frame is one sample per channel."""

    frames: int
    sample_rate: int
    channels: int


def read_header(path: Path) -> AudioHeader | str:
    """Return a file's header if its last sample is readable, else the reason why it is unusable.

    Raises:
        OSError: if the file is missing or cannot be opened (permissions, a lost mount).
    """
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        # libsndfile does not report errors of the file system; opening the file again does.
        with path.open("rb") as content:
            if not content.read(1):
                return "is empty"
        return f"is damaged or not an audio file ({error.error_string.rstrip('.')})"
    with file:
        header = AudioHeader(
            frames=file.frames, sample_rate=file.samplerate, channels=file.channels
        )
        try:
            if header.frames:
                file.seek(header.frames - 1)
                if len(file.read(1, dtype="int16")) != 1:
                    return "is truncated"
        except soundfile.LibsndfileError:
            return "is damaged or truncated: its last sample cannot be read"
    return header


def unusable_reason(header: AudioHeader | str, min_samples: int) -> str:
    """Return why a file cannot be used for pretraining, or an empty string if it can.

    Args:
        header: result of ``read_header``.
        min_samples: minimum length.
    """
    if isinstance(header, str):
        return header
    if header.sample_rate != SAMPLE_RATE:
        return f"has {header.sample_rate} Hz, not {SAMPLE_RATE}"
    if header.channels != 1:
        return f"has {header.channels} channels, not one"
    if header.frames < min_samples:
        return f"has {header.frames} samples, fewer than {min_samples}"
    return ""
