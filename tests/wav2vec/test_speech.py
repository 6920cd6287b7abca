"""The synthetic corpus: the same on every run, and made as speech is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dyt_wav2vec import speech
from dyt_wav2vec.speech import RATE, Sound, Speaker

from .conftest import SMALL

MAN = Speaker(pitch=100, tract=17.5, breath=0.0, pace=1.0)


def held(speaker, vowel, pitch, seconds=1.0):
    """A vowel on one pitch; the ends, where it sets in and dies away, are cut off."""
    draw = np.random.default_rng(0)
    sounds = [Sound(seconds=seconds, vowel=vowel)]
    samples = speech.synthesise(sounds, speaker, np.full(round(seconds * RATE), pitch), draw)
    return samples[RATE // 10 : -RATE // 10]


def spectrum(samples):
    """Frequencies in Hz and power; the resolution is that of the whole signal."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    return np.fft.rfftfreq(len(samples), 1 / RATE), power


def peak(samples, low, high, smooth):
    """The frequency at which the power, averaged over ``smooth`` Hz, is greatest in a band."""
    frequency, power = spectrum(samples)
    bins = max(1, round(smooth / frequency[1]))
    power = np.convolve(power, np.ones(bins), mode="same")
    band = (frequency >= low) & (frequency <= high)
    return frequency[band][power[band].argmax()]


@pytest.mark.parametrize("pitch", [80.0, 125.0, 200.0, 250.0])
def test_voiced_sound_is_periodic_at_its_pitch(pitch):
    samples = held(MAN, "ʌ", pitch)
    transform = np.fft.rfft(samples, 2 * len(samples))
    correlation = np.fft.irfft(np.abs(transform) ** 2)
    correlation /= correlation[0]
    lags = np.arange(RATE // 400, RATE // 60)
    lag = next(lag for lag in lags if correlation[lag] > 0.95 * correlation[lags].max())
    near = correlation[lag : lag + 4].argmax() + lag
    assert near == pytest.approx(RATE / pitch, abs=1.5)
    assert correlation[near] > 0.9


def test_a_fricative_is_not_periodic_and_has_its_own_band():
    draw = np.random.default_rng(0)
    high, low = (
        speech.synthesise([Sound(seconds=1, fricative=name)], MAN, np.full(RATE, 100.0), draw)
        for name in ("s", "ʃ")
    )
    assert peak(high, 0, 8000, 600) == pytest.approx(6000, abs=700)
    assert peak(low, 0, 8000, 600) == pytest.approx(3300, abs=700)
    correlation = np.correlate(high[4000:8000], high[4000:8000], "full")[4000 - 1 :]
    assert np.abs(correlation[40:270]).max() < 0.4 * correlation[0]


@pytest.mark.parametrize("vowel", speech.VOWELS)
def test_the_spectrum_of_a_vowel_peaks_near_its_formants(vowel):
    first, second, *_ = speech.VOWELS[vowel]
    samples = held(MAN, vowel, 50.0, 2.0)  # low, so that harmonics lie close
    valley = (first + second) / 2
    assert peak(samples, 150, valley, 60) == pytest.approx(first, abs=60)
    assert peak(samples, valley, second + 300, 60) == pytest.approx(second, abs=80)


def test_a_short_tract_moves_the_formants_up():
    child = replace(MAN, tract=14.0)
    ratio = speech.formants("ɑ", child) / speech.formants("ɑ", MAN)
    assert ratio == pytest.approx([1.25] * 5)
    assert peak(held(child, "ɑ", 50.0, 2.0), 150, 1130, 60) == pytest.approx(912, abs=60)


def test_no_two_speakers_are_alike():
    voices = speech.speakers(0, 8)
    pitches = [voice.pitch for voice in voices]
    assert pitches == sorted(pitches) and pitches[0] > 85 and pitches[-1] < 260
    assert min(np.diff(pitches)) > 1
    assert len({voice.tract for voice in voices}) == 8
    assert all(13 < voice.tract < 19 for voice in voices)
    assert voices == speech.speakers(0, 8) != speech.speakers(1, 8)


def test_utterances_are_two_to_four_seconds_at_the_level_of_speech_with_pauses():
    for number, speaker in enumerate(speech.speakers(0, 4)):
        samples = speech.utterance(speaker, np.random.default_rng(number))
        assert speech.SHORTEST <= len(samples) <= speech.LONGEST
        assert np.abs(samples).max() <= 0.99
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(speech.LEVEL, rel=0.05)
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
        loudness = np.sqrt(np.mean(frames**2, axis=1))
        assert loudness.min() < 0.05 * loudness.max()


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*.flac"))


def test_the_files_are_what_they_are_said_to_be(corpus):
    files = files_of(corpus)
    assert len(files) == SMALL.train + SMALL.valid
    assert Path("train/01/01-0004.flac") in files and Path("valid/01/01-0001.flac") in files
    for name in files:
        about = soundfile.info(corpus / name)
        assert (about.format, about.subtype) == ("FLAC", "PCM_16")
        assert (about.samplerate, about.channels) == (RATE, 1)
        assert speech.SHORTEST <= about.frames <= speech.LONGEST


def test_a_seed_gives_the_same_bytes_and_another_one_others(corpus, tmp_path):
    speech.write(tmp_path / "again", SMALL)
    speech.write(tmp_path / "other", replace(SMALL, seed=4))
    files = files_of(corpus)
    assert files == files_of(tmp_path / "again") == files_of(tmp_path / "other")
    for name in files:
        whole = (corpus / name).read_bytes()
        assert whole == (tmp_path / "again" / name).read_bytes()
        assert whole != (tmp_path / "other" / name).read_bytes()
    assert len({(corpus / name).read_bytes() for name in files}) == len(files)


def test_more_utterances_leave_the_others_as_they_are(corpus, tmp_path):
    speech.write(tmp_path / "more", replace(SMALL, train=7))
    for name in files_of(corpus):
        assert (corpus / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_a_corpus_is_written_once_and_replaces_nothing_else(corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    speech.write(corpus, SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    with pytest.raises(ValueError, match="does not hold this corpus of synthetic speech; delete"):
        speech.write(corpus, replace(SMALL, seed=4))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine is there already"):
        speech.write(tmp_path / "mine", SMALL)


def test_a_corpus_cut_off_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(speech, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        speech.write(tmp_path / "corpus", replace(SMALL, train=1, valid=1))
    assert list(tmp_path.iterdir()) == []


def test_a_sound_is_heard_when_it_is_said_and_a_filter_that_does_nothing_changes_nothing():
    samples = np.random.default_rng(0).standard_normal(10_000)
    frames = len(samples) // speech.HOP + 2
    nothing = np.ones((frames, speech.TRANSFORM // 2 + 1))
    assert speech._filtered(samples, nothing) == pytest.approx(samples, abs=1e-12)

    said = [Sound(seconds=0.5), Sound(seconds=0.3, vowel="ɑ")]
    pitch = np.full(RATE, 100.0)
    heard = speech.synthesise(said, MAN, pitch, np.random.default_rng(0))
    before, during, after = np.split(heard**2, [round(0.47 * RATE), round(0.85 * RATE)])
    assert max(before.mean(), after.mean()) < 1e-3 * during.mean()
