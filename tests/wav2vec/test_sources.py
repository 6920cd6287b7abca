"""Data sources: the layout check of LibriSpeech before submission."""

import shutil
import subprocess
import sys

import pytest

from dyt_wav2vec import sources

from ..messages import refused


def test_synthetic_speech_is_embedded():
    assert sources.SYNTHETIC_SPEECH.embedded
    assert not sources.LIBRISPEECH.embedded


def test_train_subsets_have_281241_utterances():
    assert sum(subset.utterances for subset in sources.TRAIN_SUBSETS.values()) == 281_241
    assert sum(subset.speakers for subset in sources.TRAIN_SUBSETS.values()) == 2_338


@pytest.mark.parametrize(
    ("files", "unusable"), [(1, 1), (1999, 1), (2000, 2), (28_539, 28), (281_241, 281)]
)
def test_a_thousandth_of_the_files_may_be_unusable(files, unusable):
    assert sources.max_unusable(files) == unusable


def test_check_librispeech_accepts_unpacked_archives(librispeech):
    sources.LIBRISPEECH.check(librispeech[0])


def test_check_librispeech_names_missing_parts_and_layout(librispeech):
    path, _ = librispeech
    corpus = path / "LibriSpeech"
    check = sources.LIBRISPEECH.check
    layout = (
        "expected the layout of its archives: LibriSpeech/<subset>/<speaker>/<chapter>/*.flac with "
        "the subsets train-clean-100, train-clean-360, train-other-500"
    )
    elsewhere = path / "elsewhere"
    assert refused(check, elsewhere) == f"{elsewhere} has no folder LibriSpeech/; {layout}"
    assert refused(check, corpus) == (
        f"{corpus} has no folder LibriSpeech/ (use its parent folder: {path}); {layout}"
    )
    (corpus / "train-clean-360" / "backup").mkdir()
    assert refused(check, path) == (
        f"{corpus / 'train-clean-360'} has folders that are not a speaker's number: backup; move "
        f"them out. {layout}"
    )
    (corpus / "train-clean-360" / "backup").rmdir()
    shutil.rmtree(corpus / "train-clean-360" / "10")
    assert refused(check, path) == (
        f"{corpus / 'train-clean-360'} has 1 speaker folders, not 2; unpack its archive "
        f"completely. {layout}"
    )
    shutil.rmtree(corpus / "train-clean-360")
    shutil.rmtree(corpus / "train-other-500")
    assert refused(check, path) == f"{corpus} lacks train-clean-360, train-other-500; {layout}"


def test_check_librispeech_passes_over_system_folders(librispeech):
    path, _ = librispeech
    for name in (".ipynb_checkpoints", "@eaDir", "lost+found", "__MACOSX"):
        (path / "LibriSpeech" / "train-clean-100" / name).mkdir()
    sources.LIBRISPEECH.check(path)


def test_survey_librispeech_counts_utterances_of_every_subset(librispeech):
    path, _ = librispeech
    sources.LIBRISPEECH.survey(path)
    subset = path / "LibriSpeech" / "train-clean-360"
    for utterance in sorted(subset.rglob("*.flac"))[:2]:
        utterance.unlink()
    sources.LIBRISPEECH.check(path)
    with pytest.raises(ValueError, match=r"train-clean-360 has 4 FLAC files, not 6; unpack its "):
        sources.LIBRISPEECH.survey(path)


def test_librispeech_files_passes_over_files_at_other_depths(librispeech):
    folder = librispeech[0] / "LibriSpeech" / "train-clean-100"
    names = sources.librispeech_files(folder, librispeech[1][folder.name])
    deeper = folder / names[0].removesuffix(".flac") / "copy.flac"
    deeper.parent.mkdir()
    for copy in (deeper, folder / "copy.flac"):
        copy.write_bytes((folder / names[0]).read_bytes())
    assert sources.librispeech_files(folder, librispeech[1][folder.name]) == names
    assert len(names) == 6


@pytest.mark.parametrize("source", ["LIBRISPEECH", "SPEECH_FOLDER"])
def test_survey_refuses_pointers_of_git_lfs(librispeech, source):
    path, _ = librispeech
    utterance = sorted(path.rglob("*.flac"))[7]
    utterance.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11\n")
    with pytest.raises(
        ValueError, match=rf"^{utterance} is a pointer of git-lfs, not the file its"
    ):
        getattr(sources, source).survey(path)


def test_survey_folder_refuses_a_folder_without_audio(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.flac").touch()
    sources.SPEECH_FOLDER.check(tmp_path)
    assert refused(sources.SPEECH_FOLDER.survey, tmp_path) == (
        f"{tmp_path} has no *.flac or *.wav files at any depth"
    )
    file = tmp_path / ".hidden" / "a.flac"
    assert refused(sources.SPEECH_FOLDER.check, file) == (
        f"{file} is not a folder; expected a folder of FLAC or WAV files"
    )


def test_subsets_have_published_sizes():
    assert {
        name: (subset.speakers, subset.utterances) for name, subset in sources.TRAIN_SUBSETS.items()
    } == {
        "train-clean-100": (251, 28_539),
        "train-clean-360": (921, 104_014),
        "train-other-500": (1166, 148_688),
    }


def test_sources_import_neither_torch_nor_soundfile():
    code = "import sys, dyt_wav2vec.sources; print({'torch', 'soundfile'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"
