"""Token data: the manifest of a tokenization, and samples of its documents as one stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dyt_llama.indexed_tokens import TokenFile
from matched.files import read_json
from matched.task import Context
from matched.training.fingerprint import digest_of

FOLDER = "tokens"
MANIFEST = "tokens.json"
TOKENIZER = "tokenizer.json"
VERSION = 1
Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The tokens of one text file in one split.

    Attributes:
        name: of the .bin file in the folder.
        sha256, index_sha256: of the .bin and the .idx file.
        tokens, documents, bytes: how many it has; bytes are those of the text in UTF-8.
    """

    name: str
    sha256: str
    index_sha256: str
    tokens: int
    documents: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of tokens.json.

    Attributes:
        version: of this layout.
        tokenizer: hash of the tokenizer.
        vocabulary: one more than the largest id.
        bos, eos: ids of the pieces around every document.
        splits: split → its parts, in the order of the stream.
    """

    version: int
    tokenizer: str
    vocabulary: int
    bos: int
    eos: int
    splits: Mapping[Split, tuple[Part, ...]]

    def total(self, split: Split, field: Literal["tokens", "documents", "bytes"]) -> int:
        """Return the sum of a count over the parts of a split."""
        return sum(getattr(part, field) for part in self.splits[split])

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, with the counts of each split."""
        totals = {
            split: {f: self.total(split, f) for f in ("tokens", "documents", "bytes")}
            for split in SPLITS
        }
        return {**asdict(self), "totals": totals}

    @classmethod
    def read(cls, run: Path) -> Manifest:
        """Read the manifest of a finished tokenization.

        Raises:
            ValueError: if it is missing, damaged or of another version.
        """
        path = run / FOLDER / MANIFEST
        content = read_json(path, ("version", "tokenizer", "vocabulary", "bos", "eos", "splits"))
        if content is None:
            raise ValueError(f"there is no file {path}; tokenize the text again")
        if content["version"] != VERSION:
            raise ValueError(
                f"{path} has version {content['version']}, not {VERSION}; tokenize the text again"
            )
        splits = {s: tuple(Part(**part) for part in content["splits"][s]) for s in SPLITS}
        names = ("version", "tokenizer", "vocabulary", "bos", "eos")
        return cls(splits=splits, **{name: content[name] for name in names})


class TokenStream:
    """The tokens of a split: all documents one after the other, over all files.

    Raises:
        ValueError: if a file is missing, damaged, or has another number of tokens than the
            manifest says.
    """

    def __init__(self, run: Path, manifest: Manifest, split: Split) -> None:
        self.files = [TokenFile.open(run / FOLDER / p.name) for p in manifest.splits[split]]
        for file, part in zip(self.files, manifest.splits[split], strict=True):
            if file.tokens != part.tokens:
                raise ValueError(
                    f"{file.path} has {file.tokens} tokens, but {MANIFEST} says {part.tokens}; "
                    "tokenize the text again"
                )
        self.starts = [0, *accumulate(file.tokens for file in self.files)]
        self.maps: dict[int, Any] = {}
        """Number of a file → its memory map, opened by each process when it reads the file."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "maps": {}}  # a pickled memory map is a copy of the whole file

    def read(self, start: int, count: int) -> np.ndarray:
        """Return the tokens from ``start`` on: (count,), int64."""
        assert 0 <= start <= start + count <= len(self)
        tokens = np.empty(count, np.int64)
        number, done = bisect_right(self.starts, start) - 1, 0
        while done < count:
            first = start + done - self.starts[number]
            part = self._map(number)[first : first + count - done]
            tokens[done : done + len(part)] = part
            done += len(part)
            number += 1
        return tokens

    def _map(self, number: int) -> Any:
        if number not in self.maps:
            self.maps[number] = self.files[number].read()
        return self.maps[number]


class Samples(Dataset[Tensor]):
    """Samples of ``length`` tokens and the next one: sample i starts at token i · length.

    Attention and positions run across documents, as in the authors' release.

    Args:
        tokens: leave out samples beyond so many tokens; None for no limit.

    Raises:
        ValueError: if the stream has fewer tokens than the limit.
    """

    def __init__(self, stream: TokenStream, length: int, tokens: int | None = None) -> None:
        if tokens is not None and tokens >= len(stream):
            raise ValueError(
                f"train_tokens is {tokens:,}, but the training text has {len(stream):,} tokens and "
                "one of them is only a target; reduce train_tokens, or add text"
            )
        self.stream, self.length, self.tokens = stream, length, tokens

    def __len__(self) -> int:
        tokens = len(self.stream) - 1 if self.tokens is None else self.tokens
        return max(0, tokens) // self.length

    def __getitem__(self, index: int) -> Tensor:
        """Return a sample, (length + 1,), int64."""
        tokens = self.stream.read(index * self.length, self.length + 1)
        return torch.from_numpy(tokens)


def check_same_tokens(context: Context, manifest: Manifest) -> None:
    """Record the tokens of a run, or check that they are those it began with; call on rank 0.

    Raises:
        ValueError: naming both, if a resumed run would continue on other tokens.
    """
    contents = digest_of(part.sha256 for split in SPLITS for part in manifest.splits[split])
    current = {"tokenizer": manifest.tokenizer, "tokens": contents}
    recorded = read_json(context.directory / MANIFEST, tuple(current))
    if recorded is None:
        context.write_json(MANIFEST, current)
    elif recorded != current:
        before, now = (f"{r['tokens']} of tokenizer {r['tokenizer']}" for r in (recorded, current))
        raise ValueError(
            f"the run in {context.directory} began on the tokens {before}, and its tokenization "
            f"now has {now}; restore those, or move the run away to start it from the beginning"
        )


def check_fits(manifest: Manifest, vocabulary: int) -> None:
    """Check that the network has an embedding for every token.

    Raises:
        ValueError: if it has not.
    """
    if manifest.vocabulary > vocabulary:
        raise ValueError(
            f"the tokens have ids up to {manifest.vocabulary - 1} (tokenizer "
            f"{manifest.tokenizer}), but the network has {vocabulary} embeddings; set "
            f"network.vocabulary to {manifest.vocabulary} or more, or tokenize with another "
            "tokenizer"
        )
