"""Manifests: right for what is there, and every bad file is named before fairseq meets it."""

import hashlib
import json
import shutil
import signal

import pytest

from dyt_wav2vec import manifests
from matched import signals
from matched.task import Context


@pytest.fixture
def folder(tmp_path, noise):
    """Twenty good files, in a folder each."""
    for number in range(20):
        noise(tmp_path / "data" / f"{number:02d}" / "a.flac", 1000 + number)
    return tmp_path / "data"


def test_librispeech(librispeech, tmp_path):
    path, splits = librispeech
    manifest = manifests.of_librispeech(path, seed=1, splits=splits)
    assert manifest.root == (path / "LibriSpeech").resolve()
    files = {**manifest.train, **manifest.valid}
    assert len(files) == 18 and len(manifest.valid) == 1
    assert files["train-clean-360/11/101/11-101-0003.flac"] == 1013
    assert list(manifest.train) == sorted(manifest.train)

    manifests.write(manifest, tmp_path / "lists")
    root, *lines = (tmp_path / "lists" / "train.tsv").read_text().splitlines()
    assert root == str(manifest.root)
    assert lines == [f"{name}\t{frames}" for name, frames in manifest.train.items()]
    assert manifests.read(tmp_path / "lists") == manifest
    manifests.verify(manifest)


def test_a_split_that_lacks_utterances(librispeech):
    path, splits = librispeech
    clean = path / "LibriSpeech" / "train-clean-100"
    (clean / "0" / "100" / "0-100-0000.flac").unlink()
    manifests.of_librispeech(path, seed=0, splits=splits)  # one may be missing
    (clean / "0" / "100" / "0-100-0002.flac").unlink()
    with pytest.raises(ValueError, match=r"train-clean-100 has 4 FLAC files, not 6; is its arch"):
        manifests.of_librispeech(path, seed=0, splits=splits)
    shutil.rmtree(clean)
    with pytest.raises(ValueError, match=r"there is no folder .*train-clean-100"):
        manifests.of_librispeech(path, seed=0, splits=splits)


def test_a_corpus_that_is_divided_already(corpus):
    manifest = manifests.of_parts(corpus)
    assert (len(manifest.train), len(manifest.valid)) == (5, 2)
    assert all(name.startswith("valid/") for name in manifest.valid)


def test_what_is_held_out_is_a_function_of_seed_and_names(folder, noise, tmp_path):
    manifest = manifests.of_folder(folder, seed=5)
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = manifests.of_folder(tmp_path / "elsewhere", seed=5)
    assert moved.checksum == manifest.checksum and moved.root != manifest.root
    drawn = {tuple(manifests.of_folder(folder, seed=seed).valid) for seed in range(12)}
    assert len(drawn) > 3
    noise(folder / "00" / "a.flac", 2000)
    assert manifests.of_folder(folder, seed=5).checksum != manifest.checksum


def test_the_share_and_what_a_lost_file_moves():
    names = [f"{number}.flac" for number in range(1000)]
    train, valid = manifests._divided("folder", names, 0)
    assert len(valid) == 10 and sorted([*train, *valid]) == sorted(names)
    lost = valid[3]
    _, others = manifests._divided("folder", [name for name in names if name != lost], 0)
    assert set(valid) - set(others) == {lost} and len(others) == 10


def test_other_files_and_hidden_ones_are_passed_over_and_wav_is_read(folder, noise):
    (folder / "00" / "notes.txt").write_text("x")
    (folder / "00" / "._a.flac").write_bytes(b"x")
    noise(folder / "more.wav", 1500)
    manifest = manifests.of_folder(folder, seed=0)
    assert len(manifest.train) + len(manifest.valid) == 21
    assert {**manifest.train, **manifest.valid}["more.wav"] == 1500


def cut(path, noise):
    noise(path, 16_000)
    path.write_bytes(path.read_bytes()[:-50])


BAD = {
    "has 8000 Hz, not 16000": lambda path, noise: noise(path, rate=8000),
    "has 2 channels, not one": lambda path, noise: noise(path, channels=2),
    "is empty": lambda path, noise: path.write_bytes(b""),
    "has 399 samples, fewer than 400": lambda path, noise: noise(path, 399),
    "is damaged or cut short: its last sample cannot be read": cut,
    "is damaged or no sound file": lambda path, noise: path.write_text("words\n" * 99),
}


@pytest.mark.parametrize("why", BAD)
def test_one_bad_file_is_left_out_and_named_and_two_are_refused(folder, noise, heard, why):
    good = manifests.of_folder(folder, seed=0)
    first, second, *_ = good.train
    BAD[why](folder / first, noise)
    manifest = manifests.of_folder(folder, seed=0)
    assert set(good.train) - set(manifest.train) == {first} and manifest.valid == good.valid
    (told,) = heard.messages
    assert f"{first} {why}" in told and told.endswith("it is left out")

    BAD[why](folder / second, noise)
    with pytest.raises(
        ValueError, match=r"2 files for training .* of 19; 1 may be left"
    ) as refused:
        manifests.of_folder(folder, seed=0)
    assert f"{first} {why}" in str(refused.value) and f"{second} {why}" in str(refused.value)
    assert "Expected are 16 kHz, mono" in str(refused.value)


@pytest.mark.parametrize("why", BAD)
def test_a_bad_file_for_validation_is_not_left_out(folder, noise, why):
    (name,) = manifests.of_folder(folder, seed=0).valid
    BAD[why](folder / name, noise)
    with pytest.raises(ValueError, match=f"for validation .*: {name} {why}.* replace them"):
        manifests.of_folder(folder, seed=0)


def test_a_wav_without_samples(folder, noise, heard):
    noise(folder / "zero.wav", 0)
    manifests.of_folder(folder, seed=0)
    assert "zero.wav has 0 samples, fewer than 400" in heard.text


def test_all_of_another_rate_is_one_error_that_says_what_to_do(tmp_path, noise):
    for number in range(5):
        noise(tmp_path / f"{number}.wav", rate=44_100)
    with pytest.raises(ValueError, match=r"all of the 5 files .* 44100 Hz, not 16000; .*ffmpeg"):
        manifests.of_folder(tmp_path, seed=0)


def test_folders_without_enough_files(tmp_path, noise):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        manifests.of_folder(tmp_path / "nowhere", seed=0)
    with pytest.raises(ValueError, match=r"has no files \*\.flac or \*\.wav"):
        manifests.of_folder(tmp_path, seed=0)
    noise(tmp_path / "one.flac")
    with pytest.raises(ValueError, match="has one file; expected some to train and some to"):
        manifests.of_folder(tmp_path, seed=0)
    (tmp_path / "two.flac").write_text("x")
    with pytest.raises(ValueError, match=r"two\.flac is damaged or no sound file"):
        manifests.of_folder(tmp_path, seed=0)
    noise(tmp_path / "a\tb.flac")
    with pytest.raises(ValueError, match=r"'a\\tb\.flac', whose name cannot stand in a manifest"):
        manifests.of_folder(tmp_path, seed=0)


def test_a_file_that_may_not_be_read_says_nothing_of_the_file(folder):
    (folder / "loop.flac").symlink_to("loop.flac")
    with pytest.raises(OSError, match=r"loop\.flac"):
        manifests.of_folder(folder, seed=0)


def test_moved_and_replaced_files_are_noticed(folder, noise):
    manifest = manifests.of_folder(folder, seed=0)
    first, second, *_ = manifest.train
    noise(folder / second, 3000)
    with pytest.raises(ValueError, match=rf"{second} has 3000 samples, not \d+; .* replaced since"):
        manifests.verify(manifest)
    (folder / first).unlink()
    with pytest.raises(ValueError, match=f"there is no file .*{first}; .* moved"):
        manifests.verify(manifest)
    folder.rename(folder.with_name("moved"))
    with pytest.raises(ValueError, match=r"there is no folder .*data; .* moved"):
        manifests.verify(manifest)


def test_lists_that_are_none(folder, tmp_path):
    lists = tmp_path / "lists"
    manifests.write(manifests.of_folder(folder, seed=0), lists)
    good = (lists / "valid.tsv").read_text()
    for text, message in {
        "": "is no manifest of fairseq",
        good.replace("\t", " "): "is no manifest of fairseq",
        good.splitlines()[0]: "lists no file",
        good + good.splitlines()[1]: "or one of them twice",
        "/other" + good: "have different roots",
    }.items():
        (lists / "valid.tsv").write_text(text)
        with pytest.raises(ValueError, match=message):
            manifests.read(lists)
    (lists / "valid.tsv").unlink()
    with pytest.raises(ValueError, match=r"there is no .*valid\.tsv; expected"):
        manifests.read(lists)


def test_how_far_it_is_and_a_signal_to_stop(folder, tmp_path, monkeypatch):
    context = Context(directory=tmp_path, signature="0" * 12)
    monkeypatch.setattr(manifests, "BLOCK", 6)
    manifest = manifests.of_folder(folder, seed=0, context=context)
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["step"], told["steps"]) == (20, 20)
    assert manifest == manifests.of_folder(folder, seed=0)
    monkeypatch.setattr(signals, "stop_signal", lambda: signal.SIGUSR2)
    with pytest.raises(signals.Interrupted):
        manifests.of_folder(folder, seed=0, context=context)


def test_the_checksum_is_of_parts_names_and_lengths(tmp_path):
    manifest = manifests.Manifest(root=tmp_path, train={"a.flac": 1}, valid={"b.flac": 2})
    text = b"train\na.flac\t1\nvalid\nb.flac\t2\n"
    assert manifest.checksum == hashlib.sha256(text).hexdigest()
