"""A small corpus of synthetic speech, so that pretraining can be tried where no data lies.

A source-filter model (Fant, 1960): glottal pulses whose pitch falls and rises, and noise, go
through a filter with the resonances of a vocal tract. There are no words in it, but what a model
of speech has to tell apart is: vowels that glide into each other, fricatives, pauses, voices.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from matched.files import read_json, write_json

RATE = 16_000
"""Samples a second."""
HOP = 256
"""Samples between two shapes of the vocal tract: 16 ms."""
WINDOW = 2 * HOP
TRANSFORM = 1024
"""Points of the Fourier transform: room for the resonances to die away after a window."""
SHORTEST, LONGEST = 2 * RATE, 4 * RATE
"""Samples of an utterance."""
LEVEL = 0.06
"""Root mean square of an utterance, about that of read speech."""
ORDINARY_TRACT = 17.5
"""Length in cm of the vocal tract to which the table of vowels belongs."""
SILENCE = 1e-3
"""Noise of the room, relative to the level of speech."""

# Peterson and Barney, "Control methods used in a study of the vowels" (1952): F1–F3 in Hz, means
# of men. F4 and F5 are those of a uniform tube of 17.5 cm, closed at one end: (2n - 1) c / 4l.
HIGHER = (3500.0, 4500.0)
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
"""Of the five formants, in Hz."""

FRICATIVES = {
    "s": (6000.0, 1200.0, 0.30),
    "ʃ": (3300.0, 900.0, 0.35),
    "f": (5000.0, 3000.0, 0.06),
    "h": (1500.0, 1000.0, 0.05),
}
"""Centre and width in Hz of the noise, and its strength relative to a vowel's."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice.

    Attributes:
        pitch: in Hz, about which the contours go.
        tract: length of the vocal tract in cm; formants are inversely proportional to it.
        breath: noise in vowels, relative to their level.
        pace: of speaking; 1 is ordinary, more is faster.
    """

    pitch: float
    tract: float
    breath: float
    pace: float


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A vowel, a fricative or, where neither is named, a pause.

    Attributes:
        seconds: how long it lasts at ordinary pace.
    """

    seconds: float
    vowel: str = ""
    fricative: str = ""


def speakers(seed: int, count: int) -> list[Speaker]:
    """Voices from low to high, no two alike: a longer tract mostly comes with a lower pitch."""
    draw = np.random.default_rng([seed, 0])
    found = []
    for number in range(count):
        height = (number + draw.uniform(0.2, 0.8)) / count
        found.append(
            Speaker(
                pitch=90.0 * 2.6**height,
                tract=18.0 - 4.0 * height + draw.uniform(-0.4, 0.4),
                breath=draw.uniform(0.01, 0.06),
                pace=draw.uniform(0.85, 1.2),
            )
        )
    return found


def formants(vowel: str, speaker: Speaker) -> np.ndarray:
    """F1 to F5 of a vowel in Hz as this speaker has them, (5,)."""
    return np.array(VOWELS[vowel] + HIGHER) * (ORDINARY_TRACT / speaker.tract)


def synthesise(
    sounds: Sequence[Sound],
    speaker: Speaker,
    pitch: np.ndarray,
    draw: np.random.Generator,
) -> np.ndarray:
    """What a speaker says, at the level of read speech.

    Args:
        sounds: one after the other; what the utterance has no room for is not said, and after
            the last one there is a pause.
        pitch: in Hz, for every sample.
        draw: where the noise comes from.

    Returns:
        Samples in [-1, 1), of the shape of ``pitch``.
    """
    samples = len(pitch)
    frames = samples // HOP + 2
    shape = np.tile(formants("ʌ", speaker), (frames, 1))
    voice, noise = np.zeros(frames), np.zeros(frames)
    centre, width = np.full(frames, 3000.0), np.full(frames, 3000.0)
    start = 0
    for sound in sounds:
        stop = start + max(1, round(sound.seconds / speaker.pace * RATE / HOP))
        if sound.vowel:
            shape[start:] = formants(sound.vowel, speaker)  # until the next vowel, unheard
            voice[start:stop] = 1.0
        elif sound.fricative:
            centre[start:], width[start:], strength = FRICATIVES[sound.fricative]
            noise[start:stop] = strength
        start = stop
    shape = np.stack([_smoothed(track, 3) for track in shape.T], axis=1)
    voice, noise = _smoothed(voice, 3), _smoothed(noise, 3)

    pulses = _glottal(pitch) + speaker.breath * draw.standard_normal(samples)
    heard = _filtered(pulses, voice[:, None] * _tract(shape))
    hiss = _filtered(draw.standard_normal(samples), noise[:, None] * _band(centre, width))
    heard += hiss + SILENCE * draw.standard_normal(samples)
    return np.clip(heard * (LEVEL / np.sqrt(np.mean(heard**2))), -0.99, 0.99)


def _smoothed(track: np.ndarray, frames: int) -> np.ndarray:
    """A track as the inert organs of speech follow it: its mean over so many frames."""
    padded = np.pad(track, frames // 2, mode="edge")
    return np.convolve(padded, np.full(frames, 1.0 / frames), mode="valid")


def _glottal(pitch: np.ndarray) -> np.ndarray:
    """The flow through the glottis (Rosenberg, 1971), differentiated, as lips radiate it.

    The glottis opens during 40 % of a period and closes during 16 %; the variance is one.
    """
    phase = np.cumsum(pitch / RATE) % 1.0
    opening = 0.5 * (1 - np.cos(np.pi * phase / 0.4))
    closing = np.cos(0.5 * np.pi * (phase - 0.4) / 0.16)
    flow = np.where(phase < 0.4, opening, np.where(phase < 0.56, closing, 0.0))
    radiated = np.diff(flow, prepend=0.0)
    return radiated / radiated.std()


def _tract(shape: np.ndarray) -> np.ndarray:
    """Magnitude and phase of resonators one after the other, complex (frames, bins).

    Each is Klatt's (1980): a pair of poles, with a gain of one at 0 Hz; then all are scaled to
    the same power, so that no vowel is much louder than another.

    Args:
        shape: formants in Hz, (frames, 5).
    """
    backward = np.exp(-2j * np.pi * np.arange(TRANSFORM // 2 + 1) / TRANSFORM)
    radius = np.exp(-np.pi * BANDWIDTHS / RATE)
    poles = np.ones((len(shape), len(backward)), complex)
    for k in range(len(BANDWIDTHS)):
        b = 2 * radius[k] * np.cos(2 * np.pi * shape[:, k, None] / RATE)
        c = -(radius[k] ** 2)
        poles *= (1 - b * backward - c * backward**2) / (1 - b - c)
    response = 1 / poles
    return response / np.sqrt(np.mean(np.abs(response) ** 2, axis=1, keepdims=True))


def _band(centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A bell about each centre, real (frames, bins), its mean square being one."""
    frequency = np.arange(TRANSFORM // 2 + 1) * (RATE / TRANSFORM)
    bell = np.exp(-0.5 * ((frequency - centre[:, None]) / width[:, None]) ** 2)
    return bell / np.sqrt(np.mean(bell**2, axis=1, keepdims=True))


def _filtered(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A signal through a filter that changes from frame to frame, by overlapping and adding.

    Args:
        signal: (samples,).
        response: (frames, bins), for frames HOP samples apart; enough to cover the signal.
    """
    frames = len(response)
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    padded[WINDOW // 2 : WINDOW // 2 + len(signal)] = signal
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    # Such windows add up to one, each overlapping half of its neighbours.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    answers = np.fft.irfft(np.fft.rfft(pieces * hann, TRANSFORM) * response, TRANSFORM)
    out = np.zeros((frames - 1) * HOP + TRANSFORM)
    steps = TRANSFORM // HOP
    for step in range(steps):  # all frames at once: these parts of theirs do not overlap
        part = answers[:, step * HOP : (step + 1) * HOP].reshape(-1)
        out[step * HOP : step * HOP + len(part)] += part
    return out[WINDOW // 2 : WINDOW // 2 + len(signal)]


def utterance(speaker: Speaker, draw: np.random.Generator) -> np.ndarray:
    """Two to four seconds of a voice, whose pitch falls in the end and is raised now and then."""
    samples = int(draw.integers(SHORTEST, LONGEST, endpoint=True))
    said = [Sound(seconds=draw.uniform(0.05, 0.2))]
    room = samples / RATE * speaker.pace
    while sum(sound.seconds for sound in said) < room:
        said += _word(draw)
    time = np.linspace(0.0, 1.0, samples)
    accents, phase = draw.uniform(2.0, 4.0), draw.uniform(0.0, 2 * np.pi)
    contour = 1.15 - 0.3 * time + 0.1 * np.sin(2 * np.pi * accents * time + phase)
    tremor = np.interp(np.arange(samples), *_jitter(samples, draw))
    return synthesise(said, speaker, speaker.pitch * contour * tremor, draw)


def _jitter(samples: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples 16 ms apart, and about one for each: no voice holds its pitch wholly."""
    at = np.arange(0, samples + HOP, HOP)
    return at, 1 + 0.01 * draw.standard_normal(len(at))


def _word(draw: np.random.Generator) -> list[Sound]:
    """One to three syllables, and mostly a pause: [fricative] vowel [vowel] [fricative]."""
    names, hisses = list(VOWELS), list(FRICATIVES)
    word = []
    for _ in range(draw.integers(1, 3, endpoint=True)):
        if draw.random() < 0.6:
            hiss = hisses[draw.integers(len(hisses))]
            word.append(Sound(seconds=draw.uniform(0.06, 0.14), fricative=hiss))
        for _ in range(1 + (draw.random() < 0.35)):
            vowel = names[draw.integers(len(names))]
            word.append(Sound(seconds=draw.uniform(0.08, 0.2), vowel=vowel))
        if draw.random() < 0.25:
            hiss = hisses[draw.integers(len(hisses))]
            word.append(Sound(seconds=draw.uniform(0.06, 0.14), fricative=hiss))
    if draw.random() < 0.7:
        word.append(Sound(seconds=draw.uniform(0.05, 0.25)))
    return word


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a corpus is made from.

    Attributes:
        seed: the same one gives the same bytes, with the same versions of numpy and libsndfile.
        train, valid: utterances of each part; the voices are the same in both.
        voices: how many speakers there are.
    """

    seed: int = 0
    train: int = 200
    valid: int = 40
    voices: int = 8


ABOUT = "corpus.json"


def write(folder: Path, corpus: Corpus) -> None:
    """Write a corpus, once: <folder>/{train,valid}/<voice>/<voice>-<number>.flac.

    The files are FLAC of 16 kHz, mono, 16 bits. The folder is whole or absent; one that holds
    this corpus already is left as it is. A process that is killed leaves a folder .<name>.*.tmp
    beside it, which the harness sweeps out of a run's directory. For one process of a run.

    Raises:
        ValueError: if the folder is there and holds something else.
    """
    if folder.exists():
        if read_json(folder / ABOUT) != asdict(corpus):
            raise ValueError(
                f"{folder} is there already and does not hold this corpus of synthetic speech; "
                "delete it, or name another folder"
            )
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    voices = speakers(corpus.seed, corpus.voices)
    try:
        for part, (name, count) in enumerate((("train", corpus.train), ("valid", corpus.valid))):
            for number in range(count):
                voice = number % corpus.voices
                draw = np.random.default_rng([corpus.seed, 1 + part, number])
                path = temporary / name / f"{voice:02d}" / f"{voice:02d}-{number:04d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                samples = np.round(utterance(voices[voice], draw) * 32767).astype(np.int16)
                soundfile.write(path, samples, RATE, subtype="PCM_16")
        write_json(temporary / ABOUT, asdict(corpus))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
