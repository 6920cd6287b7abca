"""Synthetic speech corpus for trying pretraining without downloading data.

A source-filter model (Fant, 1960): glottal pulses of varying pitch, and noise, pass through a
filter with the resonances of a vocal tract. There are no words, but there is the structure that a
speech model must learn: vowels that glide into each other, fricatives, pauses and voices.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from dyt_wav2vec.sources import SAMPLE_RATE
from matched.files import read_json, write_json

HOP = 256
"""Samples between two frames, each with its own shape of the vocal tract: 16 ms."""
WINDOW = 2 * HOP
FFT_SIZE = 1024
"""Points of the Fourier transform, long enough for the resonances to decay after a window."""
MIN_SAMPLES, MAX_SAMPLES = 2 * SAMPLE_RATE, 4 * SAMPLE_RATE
"""Shortest and longest utterance."""
LEVEL = 0.06
"""Root mean square of an utterance, about that of read speech."""
REFERENCE_TRACT = 17.5
"""Length in cm of the vocal tract that the formants in ``VOWELS`` belong to."""
ROOM_NOISE = 1e-3
"""Room noise, relative to the level of speech."""

# Peterson and Barney, "Control methods used in a study of the vowels" (1952): F1–F3 in Hz, means
# for men. F4 and F5 are those of a uniform tube of 17.5 cm, closed at one end: (2n - 1) c / 4l.
HIGHER_FORMANTS = (3500.0, 4500.0)
VOWELS = {
    "i": (270.0, 2290.0, 3010.0),
    "ɪ": (390.0, 1990.0, 2550.0),
    "ɛ": (530.0, 1840.0, 2480.0),
    "æ": (660.0, 1720.0, 2410.0),
    "ɑ": (730.0, 1090.0, 2440.0),
    "ɔ": (570.0, 840.0, 2410.0),
    "ʊ": (440.0, 1020.0, 2240.0),
    "u": (300.0, 870.0, 2240.0),
    "ʌ": (640.0, 1190.0, 2390.0),
    "ɝ": (490.0, 1350.0, 1690.0),
}
BANDWIDTHS = np.array([60.0, 90.0, 150.0, 200.0, 250.0])
"""Bandwidths of the five formants in Hz."""

FRICATIVES = {
    "s": (6000.0, 1200.0, 0.30),
    "ʃ": (3300.0, 900.0, 0.35),
    "f": (5000.0, 3000.0, 0.06),
    "h": (1500.0, 1000.0, 0.05),
}
"""Center and width of the noise band in Hz, and its level relative to a vowel's."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice.

    Attributes:
        pitch: base pitch in Hz.
        tract: length of the vocal tract in cm; formants are inversely proportional to it.
        breath: level of the noise in vowels, relative to the vowel.
        pace: speaking rate; 1 is normal, more is faster.
    """

    pitch: float
    tract: float
    breath: float
    pace: float


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A vowel, a fricative, or a pause if both are empty.

    Attributes:
        seconds: duration at normal pace.
        vowel: key of ``VOWELS``.
        fricative: key of ``FRICATIVES``.
    """

    seconds: float
    vowel: str = ""
    fricative: str = ""


def make_speakers(seed: int, count: int) -> list[Speaker]:
    """Return distinct voices from low to high; a lower pitch mostly has a longer tract."""
    rng = np.random.default_rng([seed, 0])
    speakers = []
    for number in range(count):
        height = (number + rng.uniform(0.2, 0.8)) / count
        speakers.append(
            Speaker(
                pitch=90.0 * 2.6**height,
                tract=18.0 - 4.0 * height + rng.uniform(-0.4, 0.4),
                breath=rng.uniform(0.01, 0.06),
                pace=rng.uniform(0.85, 1.2),
            )
        )
    return speakers


def formants(vowel: str, speaker: Speaker) -> np.ndarray:
    """Return F1 to F5 of a speaker's vowel in Hz, shape ``(5,)``."""
    return np.array(VOWELS[vowel] + HIGHER_FORMANTS) * (REFERENCE_TRACT / speaker.tract)


def synthesise(
    sounds: Sequence[Sound],
    speaker: Speaker,
    pitch: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Synthesise a sequence of sounds at the level of read speech.

    Args:
        sounds: consecutive sounds. Sounds beyond the end of ``pitch`` are dropped; the time after
            the last sound is a pause.
        speaker: the voice.
        pitch: pitch in Hz of every sample, shape ``(samples,)``.
        rng: generator of the noise.

    Returns:
        Samples in [-1, 1), shape ``(samples,)``.
    """
    samples = len(pitch)
    frames = samples // HOP + 2
    tract_formants = np.tile(formants("ʌ", speaker), (frames, 1))
    voicing, frication = np.zeros(frames), np.zeros(frames)
    center, width = np.full(frames, 3000.0), np.full(frames, 3000.0)
    start = 0
    for sound in sounds:
        stop = start + max(1, round(sound.seconds / speaker.pace * SAMPLE_RATE / HOP))
        if sound.vowel:
            # Kept until the next vowel; inaudible without voicing.
            tract_formants[start:] = formants(sound.vowel, speaker)
            voicing[start:stop] = 1.0
        elif sound.fricative:
            center[start:], width[start:], level = FRICATIVES[sound.fricative]
            frication[start:stop] = level
        start = stop
    tract_formants = np.stack([_smooth(track, 3) for track in tract_formants.T], axis=1)
    voicing, frication = _smooth(voicing, 3), _smooth(frication, 3)

    source = _glottal_pulses(pitch) + speaker.breath * rng.standard_normal(samples)
    speech = _filter(source, voicing[:, None] * _tract_response(tract_formants))
    noise_response = frication[:, None] * _band_response(center, width)
    noise = _filter(rng.standard_normal(samples), noise_response)
    speech += noise + ROOM_NOISE * rng.standard_normal(samples)
    return np.clip(speech * (LEVEL / np.sqrt(np.mean(speech**2))), -0.99, 0.99)


def _smooth(track: np.ndarray, frames: int) -> np.ndarray:
    """Return the moving average over frames, which models the inertia of the articulators."""
    padded = np.pad(track, frames // 2, mode="edge")
    return np.convolve(padded, np.full(frames, 1.0 / frames), mode="valid")


def _glottal_pulses(pitch: np.ndarray) -> np.ndarray:
    """Return the glottal flow (Rosenberg, 1971), differentiated to model radiation at the lips.

    The glottis opens during 40 % of a period and closes during 16 %; the variance is 1.
    """
    phase = np.cumsum(pitch / SAMPLE_RATE) % 1.0
    opening = 0.5 * (1 - np.cos(np.pi * phase / 0.4))
    closing = np.cos(0.5 * np.pi * (phase - 0.4) / 0.16)
    flow = np.where(phase < 0.4, opening, np.where(phase < 0.56, closing, 0.0))
    radiated = np.diff(flow, prepend=0.0)
    return radiated / radiated.std()


def _tract_response(tract_formants: np.ndarray) -> np.ndarray:
    """Return the frequency response of a cascade of resonators, complex ``(frames, bins)``.

    Each resonator is Klatt's (1980): a pair of poles with a gain of 1 at 0 Hz. The cascade is
    scaled to equal power in all frames, because otherwise some vowels would be much louder.

    Args:
        tract_formants: formants in Hz, shape ``(frames, 5)``.
    """
    delay = np.exp(-2j * np.pi * np.arange(FFT_SIZE // 2 + 1) / FFT_SIZE)
    radius = np.exp(-np.pi * BANDWIDTHS / SAMPLE_RATE)
    poles = np.ones((len(tract_formants), len(delay)), complex)
    for k in range(len(BANDWIDTHS)):
        b = 2 * radius[k] * np.cos(2 * np.pi * tract_formants[:, k, None] / SAMPLE_RATE)
        c = -(radius[k] ** 2)
        poles *= (1 - b * delay - c * delay**2) / (1 - b - c)
    response = 1 / poles
    return response / np.sqrt(np.mean(np.abs(response) ** 2, axis=1, keepdims=True))


def _band_response(center: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return a Gaussian around each center with a mean square of 1, real ``(frames, bins)``."""
    frequency = np.arange(FFT_SIZE // 2 + 1) * (SAMPLE_RATE / FFT_SIZE)
    gaussian = np.exp(-0.5 * ((frequency - center[:, None]) / width[:, None]) ** 2)
    return gaussian / np.sqrt(np.mean(gaussian**2, axis=1, keepdims=True))


def _filter(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Apply a filter that changes from frame to frame, by overlap-add.

    Args:
        signal: shape ``(samples,)``.
        response: shape ``(frames, bins)``, for frames HOP samples apart that cover the signal.
    """
    frames = len(response)
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    padded[WINDOW // 2 : WINDOW // 2 + len(signal)] = signal
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    # At 50 % overlap, Hann windows add up to 1.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    outputs = np.fft.irfft(np.fft.rfft(pieces * hann, FFT_SIZE) * response, FFT_SIZE)
    out = np.zeros((frames - 1) * HOP + FFT_SIZE)
    steps = FFT_SIZE // HOP
    for step in range(steps):  # all frames at once: these slices of their outputs do not overlap
        part = outputs[:, step * HOP : (step + 1) * HOP].reshape(-1)
        out[step * HOP : step * HOP + len(part)] += part
    return out[WINDOW // 2 : WINDOW // 2 + len(signal)]


def make_utterance(speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Synthesise two to four seconds of random sounds, with falling pitch and some accents."""
    samples = int(rng.integers(MIN_SAMPLES, MAX_SAMPLES, endpoint=True))
    sounds = [Sound(seconds=rng.uniform(0.05, 0.2))]
    duration = samples / SAMPLE_RATE * speaker.pace
    while sum(sound.seconds for sound in sounds) < duration:
        sounds += _make_word(rng)
    time = np.linspace(0.0, 1.0, samples)
    accents, phase = rng.uniform(2.0, 4.0), rng.uniform(0.0, 2 * np.pi)
    contour = 1.15 - 0.3 * time + 0.1 * np.sin(2 * np.pi * accents * time + phase)
    jitter = np.interp(np.arange(samples), *_pitch_jitter(samples, rng))
    return synthesise(sounds, speaker, speaker.pitch * contour * jitter, rng)


def _pitch_jitter(samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sample indices 16 ms apart and a pitch factor near 1 for each."""
    indices = np.arange(0, samples + HOP, HOP)
    return indices, 1 + 0.01 * rng.standard_normal(len(indices))


def _make_word(rng: np.random.Generator) -> list[Sound]:
    """Return 1 to 3 syllables [fricative] vowel [vowel] [fricative], mostly with a pause after."""
    vowels, fricatives = list(VOWELS), list(FRICATIVES)
    word = []
    for _ in range(rng.integers(1, 3, endpoint=True)):
        if rng.random() < 0.6:
            fricative = fricatives[rng.integers(len(fricatives))]
            word.append(Sound(seconds=rng.uniform(0.06, 0.14), fricative=fricative))
        for _ in range(1 + (rng.random() < 0.35)):
            vowel = vowels[rng.integers(len(vowels))]
            word.append(Sound(seconds=rng.uniform(0.08, 0.2), vowel=vowel))
        if rng.random() < 0.25:
            fricative = fricatives[rng.integers(len(fricatives))]
            word.append(Sound(seconds=rng.uniform(0.06, 0.14), fricative=fricative))
    if rng.random() < 0.7:
        word.append(Sound(seconds=rng.uniform(0.05, 0.25)))
    return word


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Size and seed of a corpus.

    Attributes:
        seed: determines the bytes of all files, given the versions of numpy and libsndfile.
        train: utterances for training.
        valid: utterances for validation, by the same voices.
        voices: number of speakers.
    """

    seed: int = 0
    train: int = 200
    valid: int = 40
    voices: int = 8


DESCRIPTION_FILE = "corpus.json"


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Write a corpus as <folder>/{train,valid}/<voice>/<voice>-<number>.flac.

    The files are 16-bit mono FLAC at 16 kHz. The folder appears only when it is complete, and an
    existing folder with this corpus is left unchanged. A killed process leaves a folder
    .<name>.*.tmp next to it, which the harness removes from a run directory. Called by a single
    process of a run.

    Raises:
        ValueError: if the folder exists and contains something else.
    """
    if folder.exists():
        if read_json(folder / DESCRIPTION_FILE) != asdict(corpus):
            raise ValueError(
                f"{folder} exists and does not contain this corpus of synthetic speech; delete it, "
                "or choose another folder"
            )
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    speakers = make_speakers(corpus.seed, corpus.voices)
    sizes = {"train": corpus.train, "valid": corpus.valid}
    try:
        for stream, (split, count) in enumerate(sizes.items(), start=1):
            for number in range(count):
                voice = number % corpus.voices
                rng = np.random.default_rng([corpus.seed, stream, number])
                path = temporary / split / f"{voice:02d}" / f"{voice:02d}-{number:04d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                samples = np.round(make_utterance(speakers[voice], rng) * 32767).astype(np.int16)
                soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        write_json(temporary / DESCRIPTION_FILE, asdict(corpus))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
