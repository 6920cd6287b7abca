"""Manifests: contents, held-out files, and the detection of unusable audio files."""

import hashlib
import json
import os
import shutil
import signal

import pytest
import soundfile
from torchaudio.datasets import LIBRISPEECH

from dyt_wav2vec import audio_files, manifests, sources
from dyt_wav2vec.sources import librispeech_files
from matched import signals
from matched.task import Context

from ..messages import refused

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11\n"
ANNEX = "/annex/objects/SHA256E-s11--4d7a.flac\n"


@pytest.fixture
def folder(tmp_path, noise):
    """Twenty good files, each in its own folder."""
    for number in range(20):
        noise(tmp_path / "data" / f"{number:02d}" / "a.flac", 1000 + number)
    return tmp_path / "data"


def test_from_librispeech_writes_and_reads_back(librispeech, tmp_path):
    path, subsets = librispeech
    manifest = manifests.from_librispeech(path, seed=1, subsets=subsets)
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


def test_from_librispeech_refuses_incomplete_subset(librispeech):
    path, subsets = librispeech
    clean = path / "LibriSpeech" / "train-clean-100"
    (clean / "0" / "100" / "0-100-0000.flac").unlink()
    manifests.from_librispeech(path, seed=0, subsets=subsets)  # one may be missing
    (clean / "0" / "100" / "0-100-0002.flac").unlink()
    assert refused(manifests.from_librispeech, path, seed=0, subsets=subsets) == (
        f"{clean} has 4 FLAC files, not 6; unpack its archive completely"
    )
    shutil.rmtree(clean)
    assert refused(manifests.from_librispeech, path, seed=0, subsets=subsets) == (
        f"there is no folder {clean}; expected LibriSpeech's train-clean-100"
    )


def test_librispeech_files_equal_torchaudios_paths(librispeech):
    path, subsets = librispeech
    dataset = LIBRISPEECH(path, url="train-clean-360")
    expected = [dataset.get_metadata(n)[0] for n in range(len(dataset))]
    folder = path / "LibriSpeech" / "train-clean-360"
    files = librispeech_files(folder, subsets["train-clean-360"])
    assert [f"train-clean-360/{name}" for name in files] == expected and len(expected) == 6


def test_librispeech_files_need_no_transcripts_and_skip_hidden(librispeech):
    path, subsets = librispeech
    folder, expected = path / "LibriSpeech" / "train-clean-100", subsets["train-clean-100"]
    files = librispeech_files(folder, expected)
    for transcript in path.rglob("*.trans.txt"):
        transcript.unlink()
    chapter = folder / "0" / "100"
    (chapter / "._0-100-0000.flac").write_bytes(b"x")
    (chapter / "more").mkdir()
    for system_folder in (folder / "@eaDir", folder / "0" / ".ipynb_checkpoints"):
        shutil.copytree(chapter, system_folder / "100")
        shutil.copy(chapter / "0-100-0000.flac", system_folder)
    assert librispeech_files(folder, expected) == files
    sources.LIBRISPEECH.check(path)


def test_librispeech_files_refuse_name_that_is_not_an_utterance(librispeech):
    path, subsets = librispeech
    folder = path / "LibriSpeech" / "train-clean-100"
    (folder / "0" / "100" / "0-100.flac").write_bytes(b"x")
    assert refused(librispeech_files, folder, subsets["train-clean-100"]) == (
        f"{folder} has the file 0/100/0-100.flac; expected names of the form "
        "<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac"
    )


def test_from_split_folder_keeps_train_and_valid(corpus):
    manifest = manifests.from_split_folder(corpus)
    assert (len(manifest.train), len(manifest.valid)) == (5, 2)
    assert all(name.startswith("valid/") for name in manifest.valid)


def test_hold_out_depends_on_seed_and_names_only(folder, noise, tmp_path):
    manifest = manifests.from_folder(folder, seed=5)
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = manifests.from_folder(tmp_path / "elsewhere", seed=5)
    assert moved.checksum == manifest.checksum and moved.root != manifest.root
    drawn = {tuple(manifests.from_folder(folder, seed=seed).valid) for seed in range(12)}
    assert len(drawn) > 3
    noise(folder / "00" / "a.flac", 2000)
    assert manifests.from_folder(folder, seed=5).checksum != manifest.checksum


def test_hold_out_is_drawn_by_the_hash_of_seed_and_name():
    names = [f"{number}.flac" for number in range(1000)]
    for seed in (0, 5):
        order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
        assert manifests._hold_out("folder", names, seed)[1] == sorted(order[:10])
    assert len(manifests._hold_out("folder", names[:149], 0)[1]) == 1
    assert len(manifests._hold_out("folder", names[:151], 0)[1]) == 2


def test_hold_out_fraction_and_stability_when_a_file_is_removed():
    names = [f"{number}.flac" for number in range(1000)]
    train, valid = manifests._hold_out("folder", names, 0)
    assert len(valid) == 10 and sorted([*train, *valid]) == sorted(names)
    lost = valid[3]
    _, without = manifests._hold_out("folder", [name for name in names if name != lost], 0)
    assert set(valid) - set(without) == {lost} and len(without) == 10


def test_from_folder_reads_wav_and_skips_hidden_files(folder, noise):
    (folder / "00" / "notes.txt").write_text("x")
    (folder / "00" / "._a.flac").write_bytes(b"x")
    noise(folder / "more.wav", 1500)
    manifest = manifests.from_folder(folder, seed=0)
    assert len(manifest.train) + len(manifest.valid) == 21
    assert {**manifest.train, **manifest.valid}["more.wav"] == 1500


def truncate(path, noise):
    noise(path, 16_000)
    path.write_bytes(path.read_bytes()[:-50])


def without_length(path, noise):
    """A FLAC as encoders write it to a pipe: its header has neither a length nor a checksum."""
    noise(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    path.write_bytes(content)


BAD = {
    "has no length in its header, as it was written to a pipe": without_length,
    "is a pointer of git-lfs, not the file itself": lambda path, noise: path.write_text(LFS),
    "is a pointer of git-annex, not the file itself": lambda path, noise: path.write_text(ANNEX),
    "has 8000 Hz, not 16000": lambda path, noise: noise(path, rate=8000),
    "has 2 channels, not one": lambda path, noise: noise(path, channels=2),
    "is empty": lambda path, noise: path.write_bytes(b""),
    "has 399 samples, fewer than 400": lambda path, noise: noise(path, 399),
    "is damaged or truncated: its last sample cannot be read": truncate,
    "is damaged or not an audio file": lambda path, noise: path.write_text("words\n" * 99),
}


@pytest.mark.parametrize("reason", BAD)
def test_from_folder_leaves_out_one_bad_file_refuses_two(folder, noise, harness_log, reason):
    good = manifests.from_folder(folder, seed=0)
    first, second, *_ = good.train
    BAD[reason](folder / first, noise)
    manifest = manifests.from_folder(folder, seed=0)
    assert set(good.train) - set(manifest.train) == {first} and manifest.valid == good.valid
    (message,) = harness_log.messages
    assert message.startswith(f"{(folder / first).resolve()} {reason}")
    assert message.endswith("; it is left out")

    BAD[reason](folder / second, noise)
    message = refused(manifests.from_folder, folder, seed=0)
    beginning = f"2 of 19 training files in {folder.resolve()} cannot be used, and at most 1 may "
    assert message.startswith(f"{beginning}be left out: ")
    assert f"{first} {reason}" in message and f"{second} {reason}" in message
    assert message.endswith(". Expected 16 kHz mono; replace or delete these files")


def test_message_about_many_unusable_files_names_three(folder):
    names = sorted(manifests.from_folder(folder, seed=0).train)[:4]
    for name in names:
        (folder / name).write_bytes(b"")
    message = refused(manifests.from_folder, folder, seed=0)
    listed = ", ".join(f"{name} is empty" for name in names[:3])
    assert f"may be left out: {listed}, …. Expected" in message


def test_folder_without_a_usable_training_file_is_refused(tmp_path, noise):
    for number in range(2):
        noise(tmp_path / f"{number}.flac")
    (name,) = manifests.from_folder(tmp_path, seed=0).train
    (tmp_path / name).write_bytes(b"")
    assert refused(manifests.from_folder, tmp_path, seed=0) == (
        f"{tmp_path.resolve()} has no usable file for training: {name} is empty"
    )


@pytest.mark.parametrize("reason", BAD)
def test_from_folder_refuses_bad_validation_file(folder, noise, reason):
    (name,) = manifests.from_folder(folder, seed=0).valid
    BAD[reason](folder / name, noise)
    message = refused(manifests.from_folder, folder, seed=0)
    assert message.startswith(
        f"validation files in {folder.resolve()} cannot be used: {name} {reason}"
    )
    assert message.endswith(". Expected 16 kHz mono; replace or delete these files")


def test_from_folder_leaves_out_wav_without_samples(folder, noise, harness_log):
    noise(folder / "zero.wav", 0)
    manifests.from_folder(folder, seed=0)
    assert "zero.wav has 0 samples, fewer than 400" in harness_log.text


@pytest.mark.parametrize("size", [0, 0x7FFF0000, 0xFFFFFFFF], ids=hex)
def test_read_header_of_a_wav_written_to_a_pipe(tmp_path, noise, size):
    path = noise(tmp_path / "pipe.wav")
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 4
    content[start : start + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    header = audio_files.read_header(path)
    if size:
        assert header.frames == len(soundfile.read(path)[0]) == 4000
    else:
        assert header.startswith("has no length in its header")


def test_fairseq_cannot_read_a_flac_written_to_a_pipe(tmp_path, noise):
    """If this fails, read_header may count the samples of such files instead of refusing them."""
    without_length(tmp_path / "pipe.flac", noise)
    with pytest.raises(ValueError, match="array is too big"):
        soundfile.read(tmp_path / "pipe.flac", dtype="float32")


def test_from_folder_refuses_an_unreadable_folder(folder, monkeypatch):
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("/07"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(ValueError, match=r"data/07 cannot be read \(Permission denied\); every fo"):
        manifests.from_folder(folder, seed=0)


def test_from_folder_lists_files_once_without_hidden_folders(folder, tmp_path):
    expected = manifests.from_folder(folder, seed=0)
    (folder / "07" / "up").symlink_to("..")
    (folder / "07" / "higher").symlink_to(tmp_path)
    (folder / "again").symlink_to("03")
    (folder / "again.flac").symlink_to("03/a.flac")
    for name in (".ipynb_checkpoints", "@eaDir", "lost+found", "__MACOSX"):
        shutil.copytree(folder / "05", folder / name)
        shutil.copytree(folder / "05", folder / "06" / name)
    assert manifests.from_folder(folder, seed=0) == expected


def test_from_folder_with_wrong_sample_rate_suggests_ffmpeg(tmp_path, noise):
    for number in range(5):
        noise(tmp_path / f"{number}.wav", rate=44_100)
    assert refused(manifests.from_folder, tmp_path, seed=0) == (
        f"all 5 files read so far in {tmp_path.resolve()} have 44100 Hz, not 16000; convert them "
        "to 16 kHz mono, for example with `ffmpeg -i in.wav -ac 1 -ar 16000 out.flac`"
    )


def test_from_folder_with_several_wrong_sample_rates_names_the_files(tmp_path, noise):
    for number, rate in enumerate([44_100, 44_100, 8000, 8000, 8000]):
        noise(tmp_path / f"{number}.wav", rate=rate)
    with pytest.raises(ValueError, match=r"cannot be used.*(44100|8000) Hz, not 16000"):
        manifests.from_folder(tmp_path, seed=0)


def test_from_folder_refuses_missing_empty_or_single_file_folders(tmp_path, noise):
    assert refused(manifests.from_folder, tmp_path / "nowhere", seed=0) == (
        f"there is no folder {tmp_path / 'nowhere'}; expected a folder of FLAC or WAV files"
    )
    assert refused(manifests.from_folder, tmp_path, seed=0) == (
        f"{tmp_path} has no *.flac or *.wav files at any depth"
    )
    noise(tmp_path / "one.flac")
    assert refused(manifests.from_folder, tmp_path, seed=0) == (
        f"{tmp_path} has one file; expected at least one each to train and validate on"
    )
    (tmp_path / "two.flac").write_text("x")
    with pytest.raises(ValueError, match=r"two\.flac is damaged or not an audio file"):
        manifests.from_folder(tmp_path, seed=0)
    noise(tmp_path / "a\tb.flac")
    assert refused(manifests.from_folder, tmp_path, seed=0) == (
        f"{tmp_path} has the file 'a\\tb.flac', whose name cannot be written to a manifest; rename "
        "it"
    )
    (tmp_path / "a\tb.flac").rename(tmp_path / " a.flac")
    assert "has the file ' a.flac', whose name" in refused(manifests.from_folder, tmp_path, seed=0)


def test_from_folder_counts_a_loop_of_links_as_unusable(folder):
    (folder / "loop.flac").symlink_to("loop.flac")
    manifest = manifests.from_folder(folder, seed=0)
    assert "loop.flac" not in {*manifest.train, *manifest.valid}
    (folder / "other.flac").symlink_to("other.flac")
    with pytest.raises(ValueError, match=r"loop\.flac is a symbolic link that leads back"):
        manifests.from_folder(folder, seed=0)


def test_verify_detects_moved_and_replaced_files(folder, noise):
    manifest = manifests.from_folder(folder, seed=0)
    first, second, *_ = manifest.train
    noise(folder / second, 3000)
    hint = "the manifest points at files that were moved or replaced since"
    root = manifest.root
    assert refused(manifests.verify, manifest) == (
        f"{root / second} has 3000 samples, not {manifest.train[second]}; {hint}"
    )
    (folder / first).unlink()
    assert refused(manifests.verify, manifest) == f"there is no file {root / first}; {hint}"
    folder.rename(folder.with_name("moved"))
    assert refused(manifests.verify, manifest) == f"there is no folder {root}; {hint}"


def test_verify_of_some_files_spreads_them_over_the_manifest(folder, monkeypatch):
    manifest = manifests.from_folder(folder, seed=0)
    names, checked, read = [*manifest.train, *manifest.valid], [], manifests._read_headers

    def record(root, chosen, context):
        checked.extend(chosen)
        return read(root, chosen, context)

    monkeypatch.setattr(manifests, "_read_headers", record)
    manifests.verify(manifest, max_files=2)
    assert len(names) > 3 and checked == [names[0], names[-(-len(names) // 2)]]


def test_read_refuses_malformed_manifests(folder, tmp_path):
    lists = tmp_path / "lists"
    manifests.write(manifests.from_folder(folder, seed=0), lists)
    good = (lists / "valid.tsv").read_text()
    file = lists / "valid.tsv"
    malformed = (
        f"{file} is not a fairseq manifest; expected the root folder, then lines of a path, a tab "
        "and a number of samples"
    )
    for text, message in {
        "": malformed,
        good.replace("\t", " "): malformed,
        good.splitlines()[0]: f"{file} lists no files, or one of them twice",
        good + good.splitlines()[1]: f"{file} lists no files, or one of them twice",
        "/other" + good: f"train.tsv and valid.tsv in {lists} have different roots",
    }.items():
        file.write_text(text)
        assert refused(manifests.read, lists) == message
    file.unlink()
    assert refused(manifests.read, lists) == f"there is no {file}; expected fairseq's manifest"


EDITS = {
    "a file is removed": lambda lines: lines[:-1],
    "a length is changed": lambda lines: [*lines[:-1], lines[-1] + "0"],
    "a name is changed": lambda lines: [*lines[:-1], "b" + lines[-1]],
    "files change places": lambda lines: [lines[0], *lines[:0:-1]],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_read_refuses_manifests_edited_by_hand(folder, tmp_path, edit):
    manifests.write(manifests.from_folder(folder, seed=0), tmp_path)
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))
    message = f"the manifests in {tmp_path} do not match their checksum"
    assert refused(manifests.read, tmp_path) == message


def test_read_refuses_manifests_without_a_checksum(folder, tmp_path):
    manifests.write(manifests.from_folder(folder, seed=0), tmp_path)
    (tmp_path / "checksum.txt").unlink()
    message = f"the manifests in {tmp_path} do not match their checksum"
    assert refused(manifests.read, tmp_path) == message


def test_from_folder_accepts_a_file_of_the_minimum_length(folder, noise):
    noise(folder / "shortest.flac", manifests.MIN_SAMPLES)
    manifest = manifests.from_folder(folder, seed=0)
    assert {**manifest.train, **manifest.valid}["shortest.flac"] == 400
    assert audio_files.unusable_reason(audio_files.read_header(folder / "shortest.flac"), 401)


def test_from_folder_reports_progress_and_stops_on_signal(folder, tmp_path, monkeypatch):
    context = Context(directory=tmp_path, signature="0" * 12)
    monkeypatch.setattr(manifests, "BLOCK", 6)
    manifest = manifests.from_folder(folder, seed=0, context=context)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["step"], progress["steps"]) == (20, 20)
    assert manifest == manifests.from_folder(folder, seed=0)
    monkeypatch.setattr(signals, "stop_signal", lambda: signal.SIGUSR2)
    with pytest.raises(signals.Interrupted):
        manifests.from_folder(folder, seed=0, context=context)


def test_checksum_covers_splits_names_and_lengths(tmp_path):
    manifest = manifests.Manifest(root=tmp_path, train={"a.flac": 1}, valid={"b.flac": 2})
    text = b"train\na.flac\t1\nvalid\nb.flac\t2\n"
    assert manifest.checksum == hashlib.sha256(text).hexdigest()
