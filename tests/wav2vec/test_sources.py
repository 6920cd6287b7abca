"""The folder of LibriSpeech is looked at before anything is submitted."""

import shutil
import subprocess
import sys

import pytest

from dyt_wav2vec import sources


def test_the_synthetic_speech_needs_no_path():
    assert sources.SYNTHETIC_SPEECH.embedded
    assert not sources.LIBRISPEECH.embedded


def test_the_960_hours_are_281241_utterances():
    assert sum(split.utterances for split in sources.TRAIN.values()) == 281_241
    assert sum(split.speakers for split in sources.TRAIN.values()) == 2_338


def test_a_folder_as_it_unpacks_is_accepted(librispeech):
    sources.LIBRISPEECH.check(librispeech[0])


def test_what_is_missing_is_named_with_the_layout(librispeech):
    path, _ = librispeech
    inside = path / "LibriSpeech"
    with pytest.raises(ValueError, match=r"has no folder LibriSpeech/; expected .*/<chapter>/"):
        sources.LIBRISPEECH.check(path / "elsewhere")
    with pytest.raises(ValueError, match=rf"\(name the folder above: {path}\)"):
        sources.LIBRISPEECH.check(inside)
    shutil.rmtree(inside / "train-clean-360" / "10")
    with pytest.raises(ValueError, match=r"train-clean-360 has 1 folders of speakers, not 2"):
        sources.LIBRISPEECH.check(path)
    shutil.rmtree(inside / "train-clean-360")
    shutil.rmtree(inside / "train-other-500")
    with pytest.raises(ValueError, match=r"lacks train-clean-360, train-other-500; expected"):
        sources.LIBRISPEECH.check(path)


def test_the_sources_import_neither_torch_nor_soundfile():
    code = "import sys, dyt_wav2vec.sources; print({'torch', 'soundfile'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout == "set()\n"
