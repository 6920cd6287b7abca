"""Synthetic corpus: reproducible bytes and acoustic properties of speech."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dyt_wav2vec import synthetic_speech
from dyt_wav2vec.sources import SAMPLE_RATE
from dyt_wav2vec.synthetic_speech import Sound, Speaker

from ..messages import refused
from .conftest import SMALL

MAN = Speaker(pitch=100, tract=17.5, breath=0.0, pace=1.0)


def sustained(speaker, vowel, pitch, seconds=1.0):
    """Return a vowel at constant pitch, without its onset and decay."""
    rng = np.random.default_rng(0)
    sounds = [Sound(seconds=seconds, vowel=vowel)]
    samples = synthetic_speech.synthesise(
        sounds, speaker, np.full(round(seconds * SAMPLE_RATE), pitch), rng
    )
    return samples[SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]


def spectrum(samples):
    """Return frequencies in Hz and power, at the resolution of the whole signal."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    return np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE), power


def peak(samples, low, high, smooth):
    """Return the frequency in a band with the most power, averaged over ``smooth`` Hz."""
    frequency, power = spectrum(samples)
    bins = max(1, round(smooth / frequency[1]))
    power = np.convolve(power, np.ones(bins), mode="same")
    band = (frequency >= low) & (frequency <= high)
    return frequency[band][power[band].argmax()]


@pytest.mark.parametrize("pitch", [80.0, 125.0, 200.0, 250.0])
def test_voiced_sound_is_periodic_at_its_pitch(pitch):
    samples = sustained(MAN, "ʌ", pitch)
    transform = np.fft.rfft(samples, 2 * len(samples))
    correlation = np.fft.irfft(np.abs(transform) ** 2)
    correlation /= correlation[0]
    lags = np.arange(SAMPLE_RATE // 400, SAMPLE_RATE // 60)
    lag = next(lag for lag in lags if correlation[lag] > 0.95 * correlation[lags].max())
    near = correlation[lag : lag + 4].argmax() + lag
    assert near == pytest.approx(SAMPLE_RATE / pitch, abs=1.5)
    assert correlation[near] > 0.9


def test_fricative_is_aperiodic_noise_in_its_band():
    rng = np.random.default_rng(0)
    high, low = (
        synthetic_speech.synthesise(
            [Sound(seconds=1, fricative=name)], MAN, np.full(SAMPLE_RATE, 100.0), rng
        )
        for name in ("s", "ʃ")
    )
    assert peak(high, 0, 8000, 600) == pytest.approx(6000, abs=700)
    assert peak(low, 0, 8000, 600) == pytest.approx(3300, abs=700)
    correlation = np.correlate(high[4000:8000], high[4000:8000], "full")[4000 - 1 :]
    assert np.abs(correlation[40:270]).max() < 0.4 * correlation[0]


@pytest.mark.parametrize("vowel", synthetic_speech.VOWELS)
def test_vowel_spectrum_peaks_near_its_formants(vowel):
    first, second, *_ = synthetic_speech.VOWELS[vowel]
    samples = sustained(MAN, vowel, 50.0, 2.0)  # a low pitch has closely spaced harmonics
    valley = (first + second) / 2
    assert peak(samples, 150, valley, 60) == pytest.approx(first, abs=60)
    assert peak(samples, valley, second + 300, 60) == pytest.approx(second, abs=80)


def test_shorter_tract_raises_formants():
    child = replace(MAN, tract=14.0)
    ratio = synthetic_speech.formants("ɑ", child) / synthetic_speech.formants("ɑ", MAN)
    assert ratio == pytest.approx([1.25] * 5)
    assert peak(sustained(child, "ɑ", 50.0, 2.0), 150, 1130, 60) == pytest.approx(912, abs=60)


def test_make_speakers_are_distinct():
    voices = synthetic_speech.make_speakers(0, 8)
    pitches = [voice.pitch for voice in voices]
    assert pitches == sorted(pitches) and pitches[0] > 85 and pitches[-1] < 260
    assert min(np.diff(pitches)) > 1
    assert len({voice.tract for voice in voices}) == 8
    assert all(13 < voice.tract < 19 for voice in voices)
    assert voices == synthetic_speech.make_speakers(0, 8) != synthetic_speech.make_speakers(1, 8)


def test_make_utterance_length_level_and_pauses():
    for number, speaker in enumerate(synthetic_speech.make_speakers(0, 4)):
        samples = synthetic_speech.make_utterance(speaker, np.random.default_rng(number))
        assert synthetic_speech.MIN_SAMPLES <= len(samples) <= synthetic_speech.MAX_SAMPLES
        assert np.abs(samples).max() <= 0.99
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(synthetic_speech.LEVEL, rel=0.05)
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
        loudness = np.sqrt(np.mean(frames**2, axis=1))
        assert loudness.min() < 0.05 * loudness.max()


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*.flac"))


def test_write_corpus_files_and_format(corpus):
    files = files_of(corpus)
    assert len(files) == SMALL.train + SMALL.valid
    assert Path("train/01/01-0004.flac") in files and Path("valid/01/01-0001.flac") in files
    for name in files:
        about = soundfile.info(corpus / name)
        assert (about.format, about.subtype) == ("FLAC", "PCM_16")
        assert (about.samplerate, about.channels) == (SAMPLE_RATE, 1)
        assert synthetic_speech.MIN_SAMPLES <= about.frames <= synthetic_speech.MAX_SAMPLES


def test_write_corpus_bytes_depend_on_seed_only(corpus, tmp_path):
    synthetic_speech.write_corpus(tmp_path / "again", SMALL)
    synthetic_speech.write_corpus(tmp_path / "other", replace(SMALL, seed=4))
    files = files_of(corpus)
    assert files == files_of(tmp_path / "again") == files_of(tmp_path / "other")
    for name in files:
        content = (corpus / name).read_bytes()
        assert content == (tmp_path / "again" / name).read_bytes()
        assert content != (tmp_path / "other" / name).read_bytes()
    assert len({(corpus / name).read_bytes() for name in files}) == len(files)


def test_write_corpus_utterances_do_not_depend_on_count(corpus, tmp_path):
    synthetic_speech.write_corpus(tmp_path / "more", replace(SMALL, train=7))
    for name in files_of(corpus):
        assert (corpus / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_write_corpus_never_overwrites(corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    synthetic_speech.write_corpus(corpus, SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    (tmp_path / "mine").mkdir()
    for folder, wanted in ((corpus, replace(SMALL, seed=4)), (tmp_path / "mine", SMALL)):
        assert refused(synthetic_speech.write_corpus, folder, wanted) == (
            f"{folder} exists and does not contain this corpus of synthetic speech; delete it, or "
            "choose another folder"
        )


def test_write_corpus_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic_speech, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        synthetic_speech.write_corpus(tmp_path / "corpus", replace(SMALL, train=1, valid=1))
    assert list(tmp_path.iterdir()) == []


def test_filter_identity_and_sound_timing():
    samples = np.random.default_rng(0).standard_normal(10_000)
    frames = len(samples) // synthetic_speech.HOP + 2
    identity = np.ones((frames, synthetic_speech.FFT_SIZE // 2 + 1))
    assert synthetic_speech._filter(samples, identity) == pytest.approx(samples, abs=1e-12)

    sounds = [Sound(seconds=0.5), Sound(seconds=0.3, vowel="ɑ")]
    pitch = np.full(SAMPLE_RATE, 100.0)
    speech = synthetic_speech.synthesise(sounds, MAN, pitch, np.random.default_rng(0))
    before, during, after = np.split(
        speech**2, [round(0.47 * SAMPLE_RATE), round(0.85 * SAMPLE_RATE)]
    )
    assert max(before.mean(), after.mean()) < 1e-3 * during.mean()


def test_written_utterances_are_the_synthesised_ones(corpus):
    """In 16 bits without wrapping around, each from its own seed."""
    speakers = synthetic_speech.make_speakers(SMALL.seed, SMALL.voices)
    for stream, split in enumerate(("train", "valid"), start=1):
        files = sorted((corpus / split).rglob("*.flac"))
        assert files
        for file in files:
            voice, number = map(int, file.stem.split("-"))
            rng = np.random.default_rng([SMALL.seed, stream, number])
            expected = np.round(synthetic_speech.make_utterance(speakers[voice], rng) * 32767)
            assert np.array_equal(soundfile.read(file, dtype="int16")[0], expected)


def test_utterance_is_that_of_recorded_results():
    """All results at smoke scale change with it, and runs keep their signatures."""
    speaker = synthetic_speech.make_speakers(0, 8)[3]
    samples = synthetic_speech.make_utterance(speaker, np.random.default_rng([0, 1, 3]))
    assert len(samples) == 35_921
    expected = [-4.83672751e-3, 2.49542396e-3, -2.3561223e-5, -6.61794176e-3, -4.80851331e-3]
    assert samples[5000:5005] == pytest.approx(expected, abs=1e-9)
