"""Tokenizers: loading from tokenizer.json, training a byte-level BPE, and their identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

BATCH = 1000
"""Documents that the library encodes at once, in parallel threads."""


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """A tokenizer of the library ``tokenizers``, with the pieces around a document.

    Attributes:
        tokenizer: the library's.
        bos, eos: ids of the pieces before and after every document.
    """

    tokenizer: Any
    bos: int
    eos: int

    @classmethod
    def of(cls, tokenizer: Any, *, bos: str, eos: str, origin: str) -> TextTokenizer:
        """Look up the pieces around a document.

        Raises:
            ValueError: if the tokenizer does not have them.
        """
        ids = {piece: tokenizer.token_to_id(piece) for piece in (bos, eos)}
        for piece, number in ids.items():
            if number is None:
                raise ValueError(
                    f"{origin} has no piece {piece!r}; set bos and eos of the config to its pieces "
                    "around a document"
                )
        return cls(tokenizer=tokenizer, bos=ids[bos], eos=ids[eos])

    @property
    def vocabulary(self) -> int:
        """One more than the largest id, added pieces included."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def digest(self) -> str:
        """Hash of the tokenizer's content, whatever the layout of its file."""
        content = json.loads(self.tokenizer.to_str())
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, documents: Iterable[str]) -> Iterator[list[int]]:
        """Yield BOS + text + EOS of every document as ids."""
        for batch in _batches(documents, BATCH):
            # Without offsets in the text, which take a third of the time.
            encodings = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for encoding in encodings:
                yield [self.bos, *encoding.ids, self.eos]


def load(file: Path) -> Any:
    """Load a tokenizer.json.

    Raises:
        ValueError: if the library cannot read it.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{file} is not a tokenizer of the library tokenizers: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def train(documents: Iterable[str], vocabulary: int, *, bos: str, eos: str) -> Any:
    """Train a byte-level BPE (Sennrich et al. 2016; GPT-2's bytes), with BOS before every text.

    Raises:
        ValueError: if the vocabulary is smaller than the bytes and both pieces, or the text does
            not have so many pairs.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + 2:
        raise ValueError(f"vocabulary is {vocabulary}; expected {len(alphabet) + 2} or more")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[bos, eos],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise ValueError(
            f"the text gives a vocabulary of {size} pieces at most; expected {vocabulary}: "
            "reduce vocabulary"
        )
    add_bos(tokenizer, bos)
    return tokenizer


def add_bos(tokenizer: Any, bos: str) -> None:
    """Make a tokenizer put BOS before every text, and nothing else.

    Evaluation harnesses add BOS only if the tokenizer itself does: transformers' ``add_bos_token``
    has no effect on a fast tokenizer without a post-processor.
    """
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
