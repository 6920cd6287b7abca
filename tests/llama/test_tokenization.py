"""Tokenization: content of the token files, resume, tokenizers, and the data sources."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import tokenizers

from dyt_llama import tokenization
from dyt_llama.config import Tokenization
from dyt_llama.glosses import glosses
from dyt_llama.sources import TEXT, TOKENIZER
from dyt_llama.token_data import Manifest, TokenStream
from dyt_llama.tokenizers_io import TextTokenizer, load, train
from matched import signals
from matched.data import load_source
from matched.training.fingerprint import digest_of

from ..messages import refused
from .tiny import GLOSSES, TEXTS, text_folder, tokenized, tokenizer_json

DAMAGED = (
    "the tokens of {} text files are damaged, or of another text or tokenizer, and are written "
    "again"
)
OWN_TEXT = Tokenization(data=("text", "tokenizer"), held_out=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Paths of the sources "text" and "tokenizer"."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "text": text_folder(folder / "text"),
        "tokenizer": tokenizer_json(folder / "tokenizer.json"),
    }


@pytest.fixture(scope="module")
def text_run(data, tmp_path_factory):
    """Directory of a run that tokenized the text."""
    directory = tmp_path_factory.mktemp("text-run")
    tokenized(directory, OWN_TEXT, data=data)
    return directory


def decoded(run, split):
    """The documents of a split, from the token files."""
    manifest = Manifest.read(run)
    stream = TokenStream(run, manifest, split)
    tokenizer = tokenizers.Tokenizer.from_file(str(run / "tokens" / "tokenizer.json"))
    texts, current = [], []
    for token in stream.read(0, len(stream)).tolist():
        current.append(token)
        if token == manifest.eos:
            assert current[0] == manifest.bos
            texts.append(tokenizer.decode(current[1:-1]))
            current = []
    assert not current
    return texts


def contents(run):
    """Name → bytes of all files of tokens, and of the fingerprint."""
    paths = [*(run / "tokens").iterdir(), run / "fingerprint.json"]
    return {path.name: path.read_bytes() for path in paths}


class TestContent:
    def test_documents_are_bos_text_eos_in_order(self, text_run):
        held_out, train_texts = decoded(text_run, "held_out"), decoded(text_run, "train")
        assert 3 < len(held_out) < 25
        assert train_texts == [t for t in TEXTS if t not in held_out]
        assert [t for t in TEXTS if t in held_out] == held_out

    def test_manifest_counts_tokens_documents_and_bytes(self, text_run):
        manifest = Manifest.read(text_run)
        for split in ("train", "held_out"):
            texts = decoded(text_run, split)
            assert manifest.total(split, "documents") == len(texts)
            assert manifest.total(split, "bytes") == sum(len(t.encode()) for t in texts)
        content = json.loads((text_run / "tokens" / "tokens.json").read_text())
        assert content["totals"]["train"]["tokens"] == manifest.total("train", "tokens")
        assert len(manifest.splits["train"]) == 3

    def test_equal_documents_are_in_the_same_split(self, data, tmp_path):
        folder = text_folder(tmp_path / "text", [*TEXTS, *TEXTS])
        tokenized(tmp_path / "run", OWN_TEXT, data={**data, "text": folder})
        held_out = decoded(tmp_path / "run", "held_out")
        assert sorted(held_out) == sorted(2 * list(dict.fromkeys(held_out)))

    def test_glosses_are_wordnet_s_definitions(self, glosses_run):
        texts = glosses()
        assert len(texts) == 21_844
        assert texts[0].startswith("a living thing that has (or can develop) the ability to act")
        assert sum(map(len, texts)) > 1_500_000
        manifest = Manifest.read(glosses_run)
        assert manifest.vocabulary == 300
        assert manifest.total("held_out", "documents") == pytest.approx(0.05 * 21_844, rel=0.1)

    def test_tokenizer_is_not_trained_on_held_out_documents(
        self, data, text_run, tmp_path, monkeypatch
    ):
        seen, train = [], tokenization.tokenizers_io.train

        def record(texts, *args, **options):
            seen.extend(texts)
            return train(iter(seen), *args, **options)

        monkeypatch.setattr(tokenization.tokenizers_io, "train", record)
        tokenized(tmp_path, replace(OWN_TEXT, data=("text",), vocabulary=300), data=data)
        held_out = decoded(text_run, "held_out")
        assert sorted(seen) == sorted(text for text in TEXTS if text not in held_out)

    def test_outcome_has_the_counts_and_the_name_of_the_text(self, data, tmp_path, caplog):
        caplog.set_level("INFO", "matched")
        outcome = tokenized(tmp_path, OWN_TEXT, data=data)
        manifest = Manifest.read(tmp_path)
        tokens = manifest.total("train", "tokens")
        documents = len(decoded(tmp_path, "train"))
        assert outcome.metrics == {"tokens": tokens, "documents": documents}
        assert outcome.steps == 3
        beginning = [f"<s>{text}</s>"[:200] for text in decoded(tmp_path, "train")[:3]]
        assert outcome.details == {
            "tokenizer": manifest.tokenizer,
            "vocabulary": 300,
            "held_out_tokens": manifest.total("held_out", "tokens"),
            "beginning": beginning,
            "data": f"text, {tokens:,} tokens",
        }
        shown = [message for message in caplog.messages if message.startswith("document")]
        assert shown == [f"document {i}: {text}" for i, text in enumerate(beginning, 1)]
        fingerprint = json.loads((tmp_path / "fingerprint.json").read_text())
        assert fingerprint["weights"] == manifest.tokenizer and len(fingerprint["batches"]) == 2
        splits = manifest.splits
        assert fingerprint["batches"] == [
            digest_of(part.sha256 for part in splits[split]) for split in ("train", "held_out")
        ]

    def test_text_without_documents_to_train_on_is_refused(self, data, tmp_path):
        config = replace(OWN_TEXT, held_out=1)
        assert refused(tokenized, tmp_path, config, data=data) == (
            "the text has no documents to train on; add text, or lower held_out"
        )
        assert not (tmp_path / "tokens" / "tokens.json").exists()

    def test_outcome_shows_the_first_documents(self, tmp_path):
        outcome = tokenized(tmp_path, replace(GLOSSES, vocabulary=260))
        beginning = outcome.details["beginning"]
        assert len(beginning) == 3 and beginning[0].startswith("<s>a living thing that has")
        assert outcome.metrics["documents"] > 20_000
        assert outcome.details["data"] == f"{outcome.metrics['tokens']:,} tokens"


class TestResume:
    def test_interrupted_tokenization_keeps_complete_files(self, data, text_run, tmp_path):
        run = tmp_path / "run"
        calls = []
        make = tokenization.TokenFilesWriter.write_part

        def stop_after_one(self, name, path):
            calls.append(name)
            make(self, name, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenization.TokenFilesWriter, "write_part", stop_after_one)
            patch.setattr(signals, "stop_signal", lambda: "SIGTERM" if calls else None)
            with pytest.raises(signals.Interrupted):
                tokenized(run, OWN_TEXT, data=data)
        assert calls == ["00000.json"]
        before = (run / "tokens" / "train-00000.bin").stat().st_mtime_ns
        tokenized(run, OWN_TEXT, data=data)
        assert (run / "tokens" / "train-00000.bin").stat().st_mtime_ns == before
        assert contents(run) == contents(text_run)

    @pytest.mark.parametrize(
        "name", ["train-00001.bin", "held_out-00001.idx", "00001.json", "00001.json.sha256"]
    )
    @pytest.mark.parametrize("damage", ["lost", "changed"])
    def test_damaged_file_is_written_again(self, data, text_run, tmp_path, name, damage, caplog):
        run = shutil.copytree(text_run, tmp_path / "run")
        path = run / "tokens" / name
        kept = (run / "tokens" / "train-00000.bin").stat().st_mtime_ns
        if damage == "lost":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-2])
        caplog.clear()
        tokenized(run, OWN_TEXT, data=data)
        assert contents(run) == contents(text_run)
        assert (run / "tokens" / "train-00000.bin").stat().st_mtime_ns == kept
        assert DAMAGED.format(1) in caplog.messages or not name.startswith(("train", "held_out"))

    @pytest.mark.parametrize(
        "change",
        [{"held_out": 0.4}, {"eos": "<s>"}, {"bos": "</s>"}, {"text_field": "body"}],
        ids=str,
    )
    def test_other_settings_write_all_files_again(self, data, text_run, tmp_path, change, caplog):
        run = shutil.copytree(text_run, tmp_path / "run")
        folder = tmp_path / "text"
        shutil.copytree(data["text"], folder)
        for file in folder.glob("*.jsonl"):
            lines = map(json.loads, file.read_text().splitlines())
            texts = "".join(json.dumps(r | {"body": r["text"]}) + "\n" for r in lines)
            file.write_text(texts)
        (folder / "2.jsonl.gz").unlink()
        tokenized(run, OWN_TEXT, data={**data, "text": folder})
        before = contents(run)
        caplog.clear()
        tokenized(run, replace(OWN_TEXT, **change), data={**data, "text": folder})
        assert DAMAGED.format(2) in caplog.messages
        assert (contents(run)["00000.json"] == before["00000.json"]) is False
        caplog.clear()
        tokenized(run, replace(OWN_TEXT, **change), data={**data, "text": folder})
        assert not [r for r in caplog.records if r.levelname == "WARNING"]

    def test_text_that_was_changed_is_tokenized_again(self, data, tmp_path, caplog):
        """Also if it has the same size: its time of change differs."""
        folder = shutil.copytree(data["text"], tmp_path / "text")
        tokenized(tmp_path / "run", OWN_TEXT, data={**data, "text": folder})
        caplog.clear()
        file = folder / "1.jsonl"
        file.write_bytes(file.read_bytes().replace(b"small", b"large"))
        os.utime(file, ns=(1, 1))
        tokenized(tmp_path / "run", OWN_TEXT, data={**data, "text": folder})
        assert caplog.messages.count(DAMAGED.format(1)) == 1
        texts = decoded(tmp_path / "run", "train") + decoded(tmp_path / "run", "held_out")
        assert sum("large text" in text for text in texts) == 20

    def test_another_tokenizer_writes_all_files_again(self, data, text_run, tmp_path):
        run = shutil.copytree(text_run, tmp_path / "run")
        other = tokenizer_json(tmp_path / "tokenizer.json", vocabulary=280)
        tokenized(run, OWN_TEXT, data={**data, "tokenizer": other})
        assert Manifest.read(run).vocabulary == 280
        assert decoded(run, "train") == decoded(text_run, "train")

    def test_temporary_files_are_not_left(self, text_run):
        assert not [p for p in (text_run / "tokens").iterdir() if p.name.startswith(".")]


class TestTokenizers:
    def test_trained_tokenizer_is_the_same_every_time(self):
        one, other = (train(TEXTS, 300, bos="<s>", eos="</s>").to_str() for _ in range(2))
        assert one == other

    def test_trained_tokenizer_adds_bos_when_asked(self):
        tokenizer = train(TEXTS, 300, bos="<s>", eos="</s>")
        assert tokenizer.encode("text").ids[0] == tokenizer.token_to_id("<s>")

    def test_digest_ignores_the_layout_of_the_file(self, tmp_path):
        path = tokenizer_json(tmp_path / "tokenizer.json")
        one = TextTokenizer.of(load(path), bos="<s>", eos="</s>", origin="").digest
        path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
        assert TextTokenizer.of(load(path), bos="<s>", eos="</s>", origin="").digest == one

    def test_tokenizer_without_bos_is_refused(self, data, tmp_path):
        tokenizer_json(tmp_path / "tokenizer.json", bos="<bos>")
        data = {**data, "tokenizer": tmp_path}
        assert refused(tokenized, tmp_path / "run", OWN_TEXT, data=data) == (
            f"{tmp_path / 'tokenizer.json'} has no piece '<s>'; set bos and eos of the config to "
            "its pieces around a document"
        )

    def test_vocabulary_that_cannot_be_trained_is_refused(self):
        pieces = {"bos": "<s>", "eos": "</s>"}
        assert refused(train, TEXTS, 257, **pieces) == "vocabulary is 257; expected 258 or more"
        assert train(TEXTS, 258, **pieces).get_vocab_size() == 258
        message = refused(train, TEXTS, 10**6, **pieces)
        most = int(message.removeprefix("the text gives a vocabulary of ").partition(" ")[0])
        assert message == (
            f"the text gives a vocabulary of {most} pieces at most; expected 1000000: reduce "
            "vocabulary"
        )
        assert train(TEXTS, most, **pieces).get_vocab_size() == most

    def test_trained_tokenizer_is_gpt_2_s_with_bos_and_eos_first(self):
        tokenizer = train(TEXTS, 300, bos="<s>", eos="</s>")
        assert (tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")) == (0, 1)
        text = " a  text\nwith Ünïcode 字"
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).ids == [0, *plain]
        assert tokenizer.encode("a", "b").ids == [0, *(tokenizer.token_to_id(t) for t in "ab")]

    def test_tokenizer_encodes_documents_in_batches(self, monkeypatch):
        own = TextTokenizer.of(
            train(TEXTS, 300, bos="<s>", eos="</s>"), bos="<s>", eos="</s>", origin=""
        )
        expected = list(own.encode(TEXTS))
        assert expected[7] == [*own.tokenizer.encode(TEXTS[7]).ids, 1]
        monkeypatch.setattr(tokenization.tokenizers_io, "BATCH", 7)
        assert list(own.encode(TEXTS)) == expected
        assert list(own.encode(TEXTS[:7])) == expected[:7]
        assert own.vocabulary == 300
        own.tokenizer.add_tokens(["another"])
        assert own.vocabulary == 301

    def test_loaded_tokenizer_neither_truncates_nor_pads(self, tmp_path):
        tokenizer = train(TEXTS, 300, bos="<s>", eos="</s>")
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=100)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        loaded = load(tmp_path / "tokenizer.json")
        assert loaded.truncation is None and loaded.padding is None

    def test_file_that_is_no_tokenizer_is_refused(self, tmp_path):
        file = tmp_path / "tokenizer.json"
        file.write_text('{"model": {}}')
        assert refused(load, file).startswith(
            f"{file} is not a tokenizer of the library tokenizers: "
        )

    def test_config_refuses_a_vocabulary_beside_a_tokenizer(self):
        with pytest.raises(ValueError, match="expected either a vocabulary to train a tokenizer"):
            replace(OWN_TEXT, vocabulary=100)
        with pytest.raises(ValueError, match="expected either a vocabulary to train a tokenizer"):
            replace(GLOSSES, vocabulary=None)


class TestSources:
    def test_sources_are_registered(self):
        assert load_source("glosses").embedded
        assert load_source("text") is TEXT and load_source("tokenizer") is TOKENIZER

    def test_sources_accept_text_and_tokenizer(self, data):
        TEXT.check(data["text"])
        TOKENIZER.check(data["tokenizer"])
        TOKENIZER.check(data["tokenizer"].parent)

    @pytest.mark.parametrize(
        "content, message",
        [
            (
                None,
                "there is no file {}; expected the tokenizer.json of a fast tokenizer, such as "
                "that of meta-llama/Llama-2-7b-hf",
            ),
            (
                "{",
                "{} is not JSON: Expecting property name enclosed in double quotes: line 1 column "
                "2 (char 1); copy it again",
            ),
            ("{}", "{} has no entry 'model'; expected a file of the library tokenizers"),
            ("[]", "{} has no entry 'model'; expected a file of the library tokenizers"),
            ("version https://git-lfs.github.com/spec/v1\n", "pointer of git-lfs"),
        ],
    )
    def test_tokenizer_source_refuses_other_files(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        assert message.format(tmp_path / "tokenizer.json") in refused(TOKENIZER.check, tmp_path)

    def test_text_source_refuses_a_pointer(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ValueError, match="pointer of git-lfs"):
            TEXT.check(tmp_path)
