"""Tokenizer: upstream's ids, case, other letters, reverse complements."""

import numpy as np
import pytest
import torch

from dyt_hyenadna import tokenizer


def test_encode_gives_upstream_ids():
    assert tokenizer.encode("ACGTN").tolist() == [7, 8, 9, 10, 11]
    special = (tokenizer.CLS, tokenizer.SEP, tokenizer.BOS, tokenizer.MASK)
    assert special == (0, 1, 2, 3)
    assert (tokenizer.PAD, tokenizer.RESERVED, tokenizer.UNK) == (4, 5, 6)
    assert tokenizer.encode("ACGTN").dtype == np.uint8


def test_encode_reads_lower_case_as_upper_case():
    # Measured with CaduceusTokenizer and CharacterTokenizer on transformers 5.23.
    assert tokenizer.encode("acgtnR").tolist() == [7, 8, 9, 10, 11, 6]
    assert tokenizer.encode("acGTN", upper_case=False).tolist() == [6, 6, 9, 10, 11]


@pytest.mark.parametrize("letters", ["RYSWKM", "BDHV", "-.*", "Uu", "é€"])
def test_encode_maps_other_letters_to_unk(letters):
    assert tokenizer.encode(letters).tolist() == [tokenizer.UNK] * len(letters)


def test_encode_accepts_bytes_and_empty_sequences():
    assert tokenizer.encode(b"GATTACA").tolist() == tokenizer.encode("GATTACA").tolist()
    assert tokenizer.encode("").shape == (0,)


def test_decode_inverts_encode():
    assert tokenizer.decode(tokenizer.encode("GATTACAN")) == "GATTACAN"
    assert tokenizer.decode(np.array([tokenizer.PAD, tokenizer.A, 15])) == "#A#"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_reverse_complement_of_arrays_and_tensors_agree(dtype):
    ids = tokenizer.encode("AACGTN")
    other = tokenizer.reverse_complement(ids)
    assert tokenizer.decode(other) == "NACGTT"
    tensor = torch.tensor(ids, dtype=dtype).expand(2, -1)
    result = tokenizer.reverse_complement(tensor)
    assert result.dtype == dtype
    assert result.tolist() == [other.tolist()] * 2


def test_reverse_complement_keeps_special_and_unused_ids():
    kept = [*range(7), 11, 12, 13, 14, 15]
    assert tokenizer.COMPLEMENT[kept].tolist() == kept
    ids = np.arange(16)
    assert tokenizer.reverse_complement(tokenizer.reverse_complement(ids)).tolist() == list(ids)
