"""Data sources: the layout check of LibriSpeech before submission."""

import shutil
import subprocess
import sys

import pytest

from dyt_wav2vec import sources


def test_synthetic_speech_is_embedded():
    assert sources.SYNTHETIC_SPEECH.embedded
    assert not sources.LIBRISPEECH.embedded


def test_train_subsets_have_281241_utterances():
    assert sum(subset.utterances for subset in sources.TRAIN_SUBSETS.values()) == 281_241
    assert sum(subset.speakers for subset in sources.TRAIN_SUBSETS.values()) == 2_338


def test_check_librispeech_accepts_unpacked_archives(librispeech):
    sources.LIBRISPEECH.check(librispeech[0])


def test_check_librispeech_names_missing_parts_and_layout(librispeech):
    path, _ = librispeech
    corpus = path / "LibriSpeech"
    with pytest.raises(ValueError, match=r"has no folder LibriSpeech/; expected .*/<chapter>/"):
        sources.LIBRISPEECH.check(path / "elsewhere")
    with pytest.raises(ValueError, match=rf"\(use its parent folder: {path}\)"):
        sources.LIBRISPEECH.check(corpus)
    shutil.rmtree(corpus / "train-clean-360" / "10")
    with pytest.raises(ValueError, match=r"train-clean-360 has 1 speaker folders, not 2"):
        sources.LIBRISPEECH.check(path)
    shutil.rmtree(corpus / "train-clean-360")
    shutil.rmtree(corpus / "train-other-500")
    with pytest.raises(ValueError, match=r"lacks train-clean-360, train-other-500; expected"):
        sources.LIBRISPEECH.check(path)


def test_sources_import_neither_torch_nor_soundfile():
    code = "import sys, dyt_wav2vec.sources; print({'torch', 'soundfile'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"
