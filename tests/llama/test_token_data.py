"""Samples of a token stream: over documents and files, in worker processes, and what is refused."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from dyt_llama.indexed_tokens import TokenWriter
from dyt_llama.token_data import (
    Manifest,
    Part,
    Samples,
    TokenStream,
    check_fits,
    check_same_tokens,
)

from ..messages import refused
from .tiny import context

FILES = ([[1, 10, 11, 2], [1, 12, 2]], [], [[1, 13, 14, 15, 16, 2]], [[1, 17, 2]])
TOKENS = [token for documents in FILES for ids in documents for token in ids]


@pytest.fixture
def run(tmp_path):
    """Directory with four token files, one of them empty."""
    (tmp_path / "tokens").mkdir()
    for number, documents in enumerate(FILES):
        with TokenWriter(tmp_path / "tokens" / f"train-{number}.bin", 20) as writer:
            for ids in documents:
                writer.add(ids)
    return tmp_path


def manifest(files=FILES):
    parts = tuple(
        Part(
            name=f"train-{number}.bin",
            sha256="",
            index_sha256="",
            tokens=sum(map(len, documents)),
            documents=len(documents),
            bytes=0,
        )
        for number, documents in enumerate(files)
    )
    splits = {"train": parts, "held_out": ()}
    return Manifest(version=1, tokenizer="t", vocabulary=20, bos=1, eos=2, splits=splits)


def stream(run):
    return TokenStream(run, manifest(), "train")


def test_token_stream_reads_any_range_over_files(run):
    tokens = stream(run)
    assert len(tokens) == 16
    for start in range(17):
        for count in range(17 - start):
            assert tokens.read(start, count).tolist() == TOKENS[start : start + count]


@pytest.mark.parametrize("length, count", [(1, 15), (3, 5), (5, 3), (7, 2), (15, 1), (16, 0)])
def test_samples_overlap_by_the_last_target(run, length, count):
    samples = Samples(stream(run), length)
    assert len(samples) == count
    for i in range(count):
        assert samples[i].tolist() == TOKENS[i * length : i * length + length + 1]
        assert samples[i].dtype == torch.int64


def test_samples_end_at_a_limit_of_tokens(run):
    samples = Samples(stream(run), 5, tokens=10)
    assert len(samples) == 2 and samples[1].tolist() == TOKENS[5:11]
    assert len(Samples(stream(run), 3, tokens=10)) == 3
    assert len(Samples(stream(run), 5, tokens=15)) == 3
    assert refused(Samples, stream(run), 5, tokens=16) == (
        "train_tokens is 16, but the training text has 16 tokens and one of them is only a target; "
        "reduce train_tokens, or add text"
    )
    assert refused(Samples, stream(run), 5, tokens=1000).startswith("train_tokens is 1,000, but")


def test_samples_are_read_in_worker_processes(run):
    samples = Samples(stream(run), 5)
    samples[0]  # opens a file in this process
    pickled = pickle.dumps(samples)  # as for workers that are spawned
    assert len(pickled) < 2000 and torch.equal(pickle.loads(pickled)[1], samples[1])
    loader = DataLoader(samples, num_workers=1)
    assert [batch[0, 0].item() for batch in loader] == [TOKENS[0], TOKENS[5], TOKENS[10]]


def test_stream_refuses_files_with_other_counts(run):
    other = manifest(([[1, 2]], *FILES[1:]))
    assert refused(TokenStream, run, other, "train") == (
        f"{run / 'tokens' / 'train-0.bin'} has 7 tokens, but tokens.json says 2; tokenize the text "
        "again"
    )


def test_check_fits_refuses_ids_beyond_the_embedding():
    check_fits(manifest(), 20)
    assert refused(check_fits, manifest(), 19) == (
        "the tokens have ids up to 19 (tokenizer t), but the network has 19 embeddings; set "
        "network.vocabulary to 20 or more, or tokenize with another tokenizer"
    )


def test_check_same_tokens_compares_tokenizer_and_files(tmp_path):
    where = context(tmp_path)
    check_same_tokens(where, manifest())
    recorded = json.loads((tmp_path / "tokens.json").read_text())
    assert recorded == {"tokenizer": "t", "tokens": recorded["tokens"]}
    check_same_tokens(where, replace(manifest(), vocabulary=99))
    splits = manifest().splits
    changed = replace(splits["train"][3], sha256="other")
    moved = {"train": splits["train"][:3], "held_out": (changed,)}
    held_out = {"train": splits["train"], "held_out": (changed,)}
    manifests = [replace(manifest(), splits=other) for other in (moved, held_out)]
    for other in (replace(manifest(), tokenizer="u"), *manifests):
        message = refused(check_same_tokens, where, other)
        before = f"{recorded['tokens']} of tokenizer t"
        assert message.startswith(
            f"the run in {tmp_path} began on the tokens {before}, and its tokenization now has "
        )
        assert message.endswith(
            f" of tokenizer {other.tokenizer}; restore those, or move the run away to start it "
            "from the beginning"
        )
        assert (before not in message.partition(" now has ")[2]) or other.tokenizer == "u"


class TestManifest:
    def write(self, run, **changes):
        content = manifest().as_json() | changes
        (run / "tokens" / "tokens.json").write_text(json.dumps(content))

    def test_manifest_is_read_as_it_was_written(self, run):
        self.write(run)
        assert Manifest.read(run) == manifest()

    def test_missing_manifest_is_named(self, run):
        assert refused(Manifest.read, run) == (
            f"there is no file {run / 'tokens' / 'tokens.json'}; tokenize the text again"
        )

    def test_manifest_of_another_version_is_refused(self, run):
        self.write(run, version=2)
        assert refused(Manifest.read, run) == (
            f"{run / 'tokens' / 'tokens.json'} has version 2, not 1; tokenize the text again"
        )

    def test_manifest_has_the_counts_of_each_split(self):
        assert manifest().as_json()["totals"] == {
            "train": {"tokens": 16, "documents": 4, "bytes": 0},
            "held_out": {"tokens": 0, "documents": 0, "bytes": 0},
        }

    def test_totals_of_an_empty_split_are_0(self):
        assert manifest().total("held_out", "tokens") == 0
        assert (
            replace(manifest(), splits={"train": (), "held_out": ()}).total("train", "bytes") == 0
        )
