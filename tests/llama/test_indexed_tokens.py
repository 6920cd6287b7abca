"""Megatron's indexed format: bytes of both files, reading back, and damaged files."""

import struct

import numpy as np
import pytest

from dyt_llama.indexed_tokens import TokenFile, TokenWriter

from ..messages import refused

DOCUMENTS = [[1, 5, 6, 2], [1, 2], [1, 65_000, 7, 8, 2]]
TOKENS = [token for ids in DOCUMENTS for token in ids]


def written(path, documents=DOCUMENTS, vocabulary=65_001):
    with TokenWriter(path, vocabulary) as writer:
        for ids in documents:
            writer.add(ids)
    return path


def test_token_writer_writes_megatron_s_bytes(tmp_path):
    """The layout of megatron/core/datasets/indexed_dataset.py, written out field by field."""
    written(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<11H", *TOKENS)
    assert (tmp_path / "a.idx").read_bytes() == b"".join(
        [
            b"MMIDIDX\x00\x00",
            struct.pack("<Q", 1),
            struct.pack("<B", 8),  # uint16
            struct.pack("<QQ", 3, 4),
            struct.pack("<3i", 4, 2, 5),
            struct.pack("<3q", 0, 8, 12),
            struct.pack("<4q", 0, 1, 2, 3),
        ]
    )


@pytest.mark.parametrize(
    "vocabulary, dtype, code", [(65_499, "<u2", 8), (65_500, "<i4", 4), (10**6, "<i4", 4)]
)
def test_token_writer_chooses_the_type_as_megatron_does(tmp_path, vocabulary, dtype, code):
    file = TokenFile.open(written(tmp_path / "a.bin", vocabulary=vocabulary))
    assert (tmp_path / "a.idx").read_bytes()[17] == code
    assert file.dtype == np.dtype(dtype)
    assert file.read().tolist() == TOKENS


def test_token_file_has_counts_and_document_ends(tmp_path):
    file = TokenFile.open(written(tmp_path / "a.bin"))
    assert (file.tokens, file.documents) == (11, 3)
    assert file.document_ends().tolist() == [4, 6, 11]


def test_token_file_without_documents_is_read(tmp_path):
    file = TokenFile.open(written(tmp_path / "a.bin", []))
    assert (file.tokens, file.documents, len(file.read())) == (0, 0, 0)
    assert file.document_ends().tolist() == []


def test_token_writer_writes_no_index_after_an_error(tmp_path):
    with pytest.raises(KeyError), TokenWriter(tmp_path / "a.bin", 100) as writer:
        writer.add([1, 2])
        raise KeyError
    assert not (tmp_path / "a.idx").exists()


class TestDamage:
    def test_index_that_does_not_fit_its_tokens_is_refused(self, tmp_path):
        path = written(tmp_path / "a.bin")
        path.write_bytes(path.read_bytes()[:-4])
        assert refused(TokenFile.open, path) == (
            f"{path.with_suffix('.idx')} describes 22 bytes of tokens, but a.bin has 18; they do "
            "not belong together: tokenize the text again"
        )

    @pytest.mark.parametrize(
        "damage",
        [
            lambda b: b[:-1],
            lambda b: b[:20],
            lambda b: b"",
            lambda b: b"X" + b[1:],
            lambda b: b[:9] + b"\2" + b[10:],
            lambda b: b[:17] + b"\1" + b[18:],
        ],
        ids=["truncated", "header truncated", "empty", "another format", "version 2", "uint8"],
    )
    def test_damaged_index_is_refused(self, tmp_path, damage):
        path = written(tmp_path / "a.bin")
        index = path.with_suffix(".idx")
        index.write_bytes(damage(index.read_bytes()))
        assert refused(TokenFile.open, path) == (
            f"{index} is not a whole index of Megatron's format, version 1; tokenize the text again"
        )

    @pytest.mark.parametrize("suffix", [".bin", ".idx"])
    def test_missing_token_file_is_named(self, tmp_path, suffix):
        path = written(tmp_path / "a.bin")
        path.with_suffix(suffix).unlink()
        assert refused(TokenFile.open, path) == (
            f"there is no file {path.with_suffix(suffix)}; tokenize the text again"
        )


def test_token_file_reads_int64_of_other_programs(tmp_path):
    path = written(tmp_path / "a.bin", vocabulary=10**6)
    path.write_bytes(struct.pack("<11q", *TOKENS))
    index = bytearray(path.with_suffix(".idx").read_bytes())
    index[17] = 5
    index[34 + 12 : 34 + 12 + 24] = struct.pack("<3q", 0, 32, 48)
    path.with_suffix(".idx").write_bytes(index)
    assert TokenFile.open(path).read().tolist() == TOKENS
