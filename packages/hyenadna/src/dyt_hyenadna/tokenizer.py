"""Character tokenizer with upstream's ids, and reverse complements of ids; no torch.

The ids are those of HyenaDNA's CharacterTokenizer with the characters A, C, G, T, N, and of
CaduceusTokenizer, which has the same vocabulary. Both networks pad the 12 ids to 16 rows.

Lower case marks repeats in a genome ("soft-masked"). CaduceusTokenizer and ``encode`` read it as
upper case; HyenaDNA's tokenizer turns it into [UNK], which ``upper_case=False`` reproduces. All
letters but A, C, G, T and N, such as IUPAC's codes for ambiguous bases, are [UNK].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CLS, SEP, BOS, MASK, PAD, RESERVED, UNK = range(7)
A, C, G, T, N = range(7, 12)
BASES = "ACGTN"
VOCABULARY = 12
PADDED_VOCABULARY = 16
"""Rows of embedding and head: the vocabulary rounded up to a multiple of 8."""

Ids = npt.NDArray[np.uint8]


def _complement_table() -> Ids:
    table = np.arange(PADDED_VOCABULARY, dtype=np.uint8)
    table[[A, C, G, T]] = [T, G, C, A]
    return table


def _byte_table(*, upper_case: bool) -> Ids:
    table = np.full(256, UNK, np.uint8)
    for number, base in enumerate(BASES, start=A):
        table[ord(base)] = number
        if upper_case:
            table[ord(base.lower())] = number
    return table


COMPLEMENT = _complement_table()
"""Complement of every id, shape ``(16,)``: A and T, C and G are exchanged, the others stay."""
_IDS = _byte_table(upper_case=True)
_IDS_OF_UPPER_CASE = _byte_table(upper_case=False)
_LETTERS = np.frombuffer(b"#" * A + BASES.encode() + b"#" * 4, np.uint8)


def encode(sequence: str | bytes, *, upper_case: bool = True) -> Ids:
    """Return the ids of a sequence, shape ``(L,)``.

    Args:
        sequence: letters, without line ends.
        upper_case: read lower case as upper case; otherwise it is [UNK], as in HyenaDNA.
    """
    content = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    table = _IDS if upper_case else _IDS_OF_UPPER_CASE
    return table[np.frombuffer(content, np.uint8)]


def decode(ids: npt.NDArray[Any]) -> str:
    """Return the letters of ids, with "#" for ids that are not a base."""
    return _LETTERS[ids].tobytes().decode()


def reverse_complement(ids: Any) -> Any:
    """Return the ids of the other strand, read along the last axis.

    Args:
        ids: numpy array or torch tensor of ids, shape ``(..., L)``; the result has its type.
    """
    if isinstance(ids, np.ndarray):
        return COMPLEMENT.astype(ids.dtype)[ids[..., ::-1]]
    import torch  # planning imports this module without torch

    table = torch.as_tensor(COMPLEMENT, dtype=ids.dtype, device=ids.device)
    return table[ids.flip(-1).long()]
