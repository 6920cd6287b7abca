"""Preparation: manifests of every data source, and checks when a pretraining loads them."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial

import pytest

from dyt_wav2vec import manifests, preparation
from dyt_wav2vec.config import Preparation
from dyt_wav2vec.preparation import prepare
from matched import Run, derive_run, provenance, run_execution, site
from matched.job_status import job_record
from matched.peers import Peers
from matched.run_directory import RunDirectory
from matched.task import Context

from .problem import CONFIG, DYT, OWN, SPEECH, context, pretrained

SHORT = replace(CONFIG, data="speech-folder", updates=1, warmup_updates=0)


def prepared_in(directory, config, **data):
    directory.mkdir()
    return prepare(Context(directory=directory, signature="prepared", data=data), config)


@pytest.fixture
def folder(corpus, tmp_path):
    """A user's folder of speech; tests may damage it."""
    return shutil.copytree(corpus, tmp_path / "speech")


@pytest.fixture
def folder_preparation(folder, tmp_path):
    """Run directory of a preparation of ``folder``."""
    prepared_in(
        tmp_path / "prepared", Preparation(data="speech-folder"), **{"speech-folder": folder}
    )
    return tmp_path / "prepared"


def train(tmp_path, speech, data, config=SHORT):
    return pretrained(tmp_path / "run", speech, config, data={"speech-folder": data})


def train_error(tmp_path, speech, data, config=SHORT):
    """Return the message with which a pretraining is refused before it starts."""
    with pytest.raises(ValueError) as error:
        train(tmp_path, speech, data, config)
    assert not (tmp_path / "run" / "checkpoints").exists()
    return str(error.value)


class TestPrepare:
    def test_generates_synthetic_speech(self, prepared):
        manifest = manifests.read(prepared / "lists")
        assert manifest.root == (prepared / "speech").resolve()
        assert (len(manifest.train), len(manifest.valid)) == (9, 5)
        manifests.verify(manifest)

    def test_holds_out_files_of_a_folder(self, folder_preparation, folder):
        manifest = manifests.read(folder_preparation / "lists")
        assert manifest.root == folder.resolve()
        assert (len(manifest.train), len(manifest.valid)) == (6, 1)
        assert not (folder_preparation / "speech").exists()

    def test_librispeech_manifest_is_loaded_again(self, librispeech, tmp_path, monkeypatch):
        path, subsets = librispeech
        from_librispeech = partial(manifests.from_librispeech, subsets=subsets)
        monkeypatch.setattr(manifests, "from_librispeech", from_librispeech)
        outcome = prepared_in(tmp_path / "prepared", Preparation(), librispeech=path)
        assert outcome.details["train_files"] == 17 and outcome.details["valid_files"] == 1
        assert outcome.steps == 18
        # 6 files in each subset, with 1000, 1010 or 1020 samples plus 0 to 5.
        assert sum(outcome.metrics.values()) == pytest.approx(18 * 1012.5 / 16_000 / 3600)
        config = replace(SHORT, data="librispeech", min_sample_size=1000, max_sample_size=1000)
        place = context(tmp_path / "run", tmp_path / "prepared", data={"librispeech": path})
        manifest = preparation.load_manifest(tmp_path / "prepared", config.data, path, place)
        assert manifest.root == (path / "LibriSpeech").resolve()

    def test_checksum_depends_on_shuffle_seed(self, folder, tmp_path):
        def checksum(seed):
            config = Preparation(data="speech-folder", shuffle_seed=seed)
            where = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
            return prepared_in(where, config, **{"speech-folder": folder}).details["checksum"]

        assert checksum(0) == checksum(0)
        assert len({checksum(seed) for seed in range(4)}) > 1

    def test_writes_no_manifest_after_losing_the_lease(self, folder, tmp_path):
        # The files are checked before ownership is lost.
        results = iter([None, None, RuntimeError("taken over")])

        def check_ownership():
            if (error := next(results)) is not None:
                raise error

        place = Context(
            directory=tmp_path,
            signature="p",
            data={"speech-folder": folder},
            check_ownership=check_ownership,
        )
        with pytest.raises(RuntimeError, match="taken over"):
            prepare(place, Preparation(data="speech-folder"))
        assert not (tmp_path / "lists").exists()


class TestLoadManifest:
    def test_accepts_data_moved_together_with_site_path(self, folder_preparation, folder, tmp_path):
        moved = folder.rename(tmp_path / "elsewhere")
        run = train(tmp_path, folder_preparation, moved)
        assert run.outcome.steps == 1
        assert (run.directory / "lists" / "train.tsv").read_text().startswith(f"{moved}\n")

    def test_accepts_moved_run_directory_of_preparation(self, prepared, tmp_path):
        moved = shutil.copytree(prepared, tmp_path / "elsewhere")
        config = replace(SHORT, data="synthetic-speech")
        run = train(tmp_path, moved, None, config)
        assert (run.directory / "lists" / "train.tsv").read_text().startswith(f"{moved}/speech\n")

    def test_refuses_data_moved_without_site_path(self, folder_preparation, folder, tmp_path):
        folder.rename(tmp_path / "elsewhere")
        assert train_error(tmp_path, folder_preparation, folder) == (
            f"there is no folder {folder}; the manifest points at files that were moved or "
            "replaced since: restore them, or set their folder in site.toml. If they were changed "
            f"on purpose, delete {folder_preparation} and submit again to check all files"
        )

    def test_refuses_missing_file(self, folder_preparation, folder, tmp_path):
        lost = folder / next(iter(manifests.read(folder_preparation / "lists").train))
        lost.unlink()
        assert train_error(tmp_path, folder_preparation, folder).startswith(
            f"there is no file {lost}; the mani"
        )

    def test_refuses_replaced_file(self, folder_preparation, folder, tmp_path, noise):
        name, frames = next(iter(manifests.read(folder_preparation / "lists").train.items()))
        noise(folder / name, frames=16_001)
        message = train_error(tmp_path, folder_preparation, folder)
        assert message.startswith(f"{folder / name} has 16001 samples, not {frames}; the manifest")

    def test_refuses_damaged_file(self, folder_preparation, folder, tmp_path):
        name = next(iter(manifests.read(folder_preparation / "lists").train))
        (folder / name).write_bytes(b"junk")
        message = train_error(tmp_path, folder_preparation, folder)
        assert message.startswith(f"{folder / name} is damaged or not an audio file")

    @pytest.mark.parametrize(
        "text, message",
        [
            (
                "/root\nno tab\n",
                "train.tsv is not a fairseq manifest; expected the root folder, then lines of a "
                "path, a tab and a number of samples; delete ",
            ),
            ("/root\na.flac\tlong\n", "train.tsv is not a fairseq manifest; expected the root"),
            ("", "train.tsv is not a fairseq manifest"),
            ("/root\n", "train.tsv lists no files"),
            ("/elsewhere\na.flac\t16000\n", "have different roots"),
        ],
        ids=["no tab", "no number", "empty", "no file", "another root"],
    )
    def test_refuses_damaged_manifest(self, folder_preparation, folder, tmp_path, text, message):
        (folder_preparation / "lists" / "train.tsv").write_text(text)
        found = train_error(tmp_path, folder_preparation, folder)
        assert message in found
        assert found.endswith(f"; delete {folder_preparation} and submit again")

    def test_refuses_missing_manifest(self, folder_preparation, folder, tmp_path):
        (folder_preparation / "lists" / "valid.tsv").unlink()
        assert "valid.tsv; expected fairseq's manifest" in train_error(
            tmp_path, folder_preparation, folder
        )

    @pytest.mark.parametrize("split", ["train", "valid"])
    def test_refuses_split_with_too_short_files_only(
        self, tmp_path, noise, folder_preparation, folder, split
    ):
        manifest = manifests.read(folder_preparation / "lists")
        names = list(getattr(manifest, split))
        for name in names:
            noise(folder / name, frames=7_999)
        short = replace(manifest, **{split: dict.fromkeys(names, 7_999)})
        manifests.write(short, folder_preparation / "lists")
        message = train_error(tmp_path, folder_preparation, folder)
        assert message == (
            f"no file of {split}.tsv has 8000 samples (0.5 s) or more; add longer files or lower "
            "min_sample_size"
        )

    def test_accepts_some_files_below_min_sample_size(
        self, tmp_path, noise, folder_preparation, folder
    ):
        manifest = manifests.read(folder_preparation / "lists")
        first = next(iter(manifest.train))
        noise(folder / first, frames=7_999)
        manifests.write(
            replace(manifest, train={**manifest.train, first: 7_999}), folder_preparation / "lists"
        )
        assert train(tmp_path, folder_preparation, folder).outcome.steps == 1

    def test_verifies_at_most_files_to_verify(
        self, folder_preparation, folder, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(preparation, "FILES_TO_VERIFY", 2)
        paths = []
        read_header = manifests.read_header

        def recorded(path):
            paths.append(path)
            return read_header(path)

        monkeypatch.setattr(manifests, "read_header", recorded)
        train(tmp_path, folder_preparation, folder)
        assert len(paths) == 2


def test_harness_runs_preparation_and_both_arms(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "environment", lambda code: {})
    local = site.Site(file=tmp_path / "site.toml", runs=site.Runs(folder=str(tmp_path)))
    speech = Run(task="dyt_wav2vec.preparation:prepare", config=SPEECH)
    config = replace(CONFIG, updates=4, norm=OWN)
    plain = Run(task="dyt_wav2vec.pretraining:pretrain", config=config, needs={"speech": speech})
    dyt = derive_run(plain, norm=DYT)
    results = {}
    for run in (speech, plain, dyt):
        job = job_record("here", str(os.getpid()), "t1", tmp_path)
        result = run_execution.execute(run, local, job, Peers(), threads=1, num_workers=0)
        assert result.state == "done"
        directory = RunDirectory(local.runs_folder, run)
        results[run] = json.loads((directory / "result.json").read_text())
        assert "warning" not in (directory / "log.txt").read_text().lower()
    assert results[speech]["metrics"]["train_hours"] > results[speech]["metrics"]["valid_hours"] > 0
    assert results[plain]["steps"] == results[dyt]["steps"] == 4
    assert results[plain]["metrics"]["loss"] != results[dyt]["metrics"]["loss"]
    prints = [
        (RunDirectory(local.runs_folder, run) / "fingerprint.json").read_text()
        for run in (plain, dyt)
    ]
    assert prints[0] == prints[1]
    assert len(results[plain]["details"]["loss_of_passes"]) == 2
