"""From a data source to what a pretraining reads: through the harness, and with files amiss."""

import json
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
    """A user's folder of speech, to be broken."""
    return shutil.copytree(corpus, tmp_path / "speech")


@pytest.fixture
def looked_at(folder, tmp_path):
    """The directory of a run that has looked at it."""
    prepared_in(
        tmp_path / "prepared", Preparation(data="speech-folder"), **{"speech-folder": folder}
    )
    return tmp_path / "prepared"


def train(tmp_path, speech, data, config=SHORT):
    return pretrained(tmp_path / "run", speech, config, data={"speech-folder": data})


def refused(tmp_path, speech, data, config=SHORT):
    """Why a pretraining does not begin."""
    with pytest.raises(ValueError) as told:
        train(tmp_path, speech, data, config)
    assert not (tmp_path / "run" / "checkpoints").exists()
    return str(told.value)


class TestSources:
    def test_synthetic_speech_is_made_first(self, prepared):
        lists = manifests.read(prepared / "lists")
        assert lists.root == (prepared / "speech").resolve()
        assert (len(lists.train), len(lists.valid)) == (9, 5)
        manifests.verify(lists)

    def test_a_folder_is_divided(self, looked_at, folder):
        lists = manifests.read(looked_at / "lists")
        assert lists.root == folder.resolve()
        assert (len(lists.train), len(lists.valid)) == (6, 1)
        assert not (looked_at / "speech").exists()

    def test_librispeech(self, librispeech, tmp_path, monkeypatch):
        path, splits = librispeech
        of = partial(manifests.of_librispeech, splits=splits)
        monkeypatch.setattr(manifests, "of_librispeech", of)
        outcome = prepared_in(tmp_path / "prepared", Preparation(), librispeech=path)
        assert outcome.details["train_files"] == 17 and outcome.details["valid_files"] == 1
        assert outcome.steps == 18
        # 6 files of 1000, 1010 and 1020 samples in each split, and 0 to 5 more.
        assert sum(outcome.metrics.values()) == pytest.approx(18 * 1012.5 / 16_000 / 3600)
        config = replace(SHORT, data="librispeech", min_sample_size=1000, max_sample_size=1000)
        place = context(tmp_path / "run", tmp_path / "prepared", data={"librispeech": path})
        made = preparation.prepared(tmp_path / "prepared", config.data, path, place)
        assert made.root == (path / "LibriSpeech").resolve()

    def test_the_seed_decides_what_is_held_out_and_the_result_says_so(self, folder, tmp_path):
        def checksum(seed):
            config = Preparation(data="speech-folder", shuffle_seed=seed)
            where = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
            return prepared_in(where, config, **{"speech-folder": folder}).details["checksum"]

        assert checksum(0) == checksum(0)
        assert len({checksum(seed) for seed in range(4)}) > 1

    def test_whoever_has_lost_the_run_writes_no_lists(self, folder, tmp_path):
        answers = iter([None, None, RuntimeError("taken over")])  # it looks at the files first

        def lost():
            if (error := next(answers)) is not None:
                raise error

        place = Context(
            directory=tmp_path, signature="p", data={"speech-folder": folder}, check_ownership=lost
        )
        with pytest.raises(RuntimeError, match="taken over"):
            prepare(place, Preparation(data="speech-folder"))
        assert not (tmp_path / "lists").exists()


class TestAmiss:
    def test_data_that_has_moved_with_its_path_is_found(self, looked_at, folder, tmp_path):
        moved = folder.rename(tmp_path / "elsewhere")
        run = train(tmp_path, looked_at, moved)
        assert run.outcome.steps == 1
        assert (run.directory / "lists" / "train.tsv").read_text().startswith(f"{moved}\n")

    def test_a_prepared_run_that_has_moved_is_found(self, prepared, tmp_path):
        moved = shutil.copytree(prepared, tmp_path / "elsewhere")
        config = replace(SHORT, data="synthetic-speech")
        run = train(tmp_path, moved, None, config)
        assert (run.directory / "lists" / "train.tsv").read_text().startswith(f"{moved}/speech\n")

    def test_data_that_has_moved_without_it(self, looked_at, folder, tmp_path):
        folder.rename(tmp_path / "elsewhere")
        told = refused(tmp_path, looked_at, folder)
        assert told.startswith(f"there is no folder {folder}; the manifest points at files that")
        assert told.endswith(f"delete {looked_at} and submit again, which looks at them anew")

    def test_a_file_that_is_gone(self, looked_at, folder, tmp_path):
        lost = folder / next(iter(manifests.read(looked_at / "lists").train))
        lost.unlink()
        assert refused(tmp_path, looked_at, folder).startswith(f"there is no file {lost}; the mani")

    def test_a_file_that_was_replaced(self, looked_at, folder, tmp_path, noise):
        name, frames = next(iter(manifests.read(looked_at / "lists").train.items()))
        noise(folder / name, frames=16_001)
        told = refused(tmp_path, looked_at, folder)
        assert told.startswith(f"{folder / name} has 16001 samples, not {frames}; the manifest")

    def test_a_file_that_was_damaged(self, looked_at, folder, tmp_path):
        name = next(iter(manifests.read(looked_at / "lists").train))
        (folder / name).write_bytes(b"junk")
        told = refused(tmp_path, looked_at, folder)
        assert told.startswith(f"{folder / name} is damaged or no sound file")

    @pytest.mark.parametrize(
        "text, says",
        [
            ("/root\nno tab\n", "train.tsv is no manifest of fairseq; expected the root folder"),
            ("/root\na.flac\tlong\n", "train.tsv is no manifest of fairseq; expected the root"),
            ("", "train.tsv is no manifest of fairseq"),
            ("/root\n", "train.tsv lists no file"),
            ("/elsewhere\na.flac\t16000\n", "have different roots"),
        ],
        ids=["no tab", "no number", "empty", "no file", "another root"],
    )
    def test_a_list_that_is_damaged(self, looked_at, folder, tmp_path, text, says):
        (looked_at / "lists" / "train.tsv").write_text(text)
        assert says in refused(tmp_path, looked_at, folder)

    def test_a_list_that_is_gone(self, looked_at, folder, tmp_path):
        (looked_at / "lists" / "valid.tsv").unlink()
        assert "valid.tsv; expected fairseq's manifest" in refused(tmp_path, looked_at, folder)

    @pytest.mark.parametrize("part", ["train", "valid"])
    def test_files_that_are_all_too_short(self, tmp_path, noise, looked_at, folder, part):
        lists = manifests.read(looked_at / "lists")
        names = list(getattr(lists, part))
        for name in names:
            noise(folder / name, frames=7_999)
        short = replace(lists, **{part: dict.fromkeys(names, 7_999)})
        manifests.write(short, looked_at / "lists")
        told = refused(tmp_path, looked_at, folder)
        assert told == (
            f"no file of {part}.tsv has the 8000 samples (0.5 s) that min_sample_size asks for; "
            "add longer ones, or lower it"
        )

    def test_some_that_are_too_short_are_left_out(self, tmp_path, noise, looked_at, folder):
        lists = manifests.read(looked_at / "lists")
        first = next(iter(lists.train))
        noise(folder / first, frames=7_999)
        manifests.write(replace(lists, train={**lists.train, first: 7_999}), looked_at / "lists")
        assert train(tmp_path, looked_at, folder).outcome.steps == 1

    def test_it_looks_at_some_files_of_many(self, looked_at, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(preparation, "GLANCES", 2)
        seen = []
        look = manifests.look
        monkeypatch.setattr(manifests, "look", lambda path: seen.append(path) or look(path))
        train(tmp_path, looked_at, folder)
        assert len(seen) == 2


def test_both_arms_through_the_harness(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "environment", lambda code: {})
    here = site.Site(file=tmp_path / "site.toml", runs=site.Runs(folder=str(tmp_path)))
    speech = Run(task="dyt_wav2vec.preparation:prepare", config=SPEECH)
    config = replace(CONFIG, updates=4, norm=OWN)
    plain = Run(task="dyt_wav2vec.pretraining:pretrain", config=config, needs={"speech": speech})
    other = derive_run(plain, norm=DYT)
    told = {}
    for run in (speech, plain, other):
        job = job_record("here", run.signature, "t1", tmp_path)
        result = run_execution.execute(run, here, job, Peers(), threads=1, num_workers=0)
        assert result.state == "done"
        directory = RunDirectory(here.runs_folder, run)
        told[run] = json.loads((directory / "result.json").read_text())
        assert "warning" not in (directory / "log.txt").read_text().lower()
    assert told[speech]["metrics"]["train_hours"] > told[speech]["metrics"]["valid_hours"] > 0
    assert told[plain]["steps"] == told[other]["steps"] == 4
    assert told[plain]["metrics"]["loss"] != told[other]["metrics"]["loss"]
    prints = [
        (RunDirectory(here.runs_folder, run) / "fingerprint.json").read_text()
        for run in (plain, other)
    ]
    assert prints[0] == prints[1]
    assert len(told[plain]["details"]["loss_of_passes"]) == 2
