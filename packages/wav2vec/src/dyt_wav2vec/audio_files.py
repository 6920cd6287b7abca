"""Headers of audio files, and checks of their last samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import soundfile

from dyt_wav2vec.sources import SAMPLE_RATE
from matched.data_files import pointer_fault

MAX_FRAMES = 1 << 62
"""libsndfile's length of a FLAC whose header has none is the largest number of 64 bits."""
MAX_EMPTY_BYTES = 4096
"""Size up to which a file without samples is considered empty: headers, tags, a cue sheet."""
UNKNOWN_LENGTH = (
    "has no length in its header, as it was written to a pipe, and fairseq cannot read it (convert "
    "it: `ffmpeg -i in.flac out.flac`)"
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
        if fault := pointer_fault(path):
            return fault
        # libsndfile does not report errors of the file system; opening the file again does.
        with path.open("rb") as content:
            if not content.read(1):
                return "is empty"
        return f"is damaged or not an audio file ({error.error_string.rstrip('.')})"
    with file:
        if file.frames >= MAX_FRAMES or (not file.frames and path.stat().st_size > MAX_EMPTY_BYTES):
            return UNKNOWN_LENGTH
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
