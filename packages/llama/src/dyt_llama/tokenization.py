"""Tokenization of a text into token files: the task ``dyt_llama.tokenization:tokenize``.

Each text file makes a .bin and an .idx file per split. The files are spread over the processes of
the run and resumed file by file; their content depends on the text file and the tokenizer alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dyt_llama import tokenizers_io
from dyt_llama.config import Tokenization
from dyt_llama.docstrings import docstrings
from dyt_llama.glosses import glosses
from dyt_llama.indexed_tokens import TokenWriter, index_file
from dyt_llama.sources import tokenizer_file
from dyt_llama.text_files import documents, is_held_out, list_text_files
from dyt_llama.token_data import (
    FOLDER,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    VERSION,
    Manifest,
    Part,
    Split,
    TokenStream,
)
from dyt_llama.tokenizers_io import TextTokenizer
from matched.files import DamagedFileError, read_json, write_json
from matched.task import Context, Outcome
from matched.training.distributed import (
    all_gather_objects,
    on_rank0,
    process_group,
    raise_on_all_ranks,
)
from matched.training.file_tasks import digest, make_files, remove_stale_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
SHOWN_SAMPLES = 3
SHOWN_CHARACTERS = 200
EMBEDDED: dict[str, Callable[[], Sequence[str]]] = {"docstrings": docstrings, "glosses": glosses}
"""Data source → its documents."""


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A text file, or the embedded text.

    Attributes:
        origin: what identifies its content: path, size and time of the last change.
        read: () → its documents.
    """

    origin: str
    read: Callable[[], Iterator[str]]


def tokenize(context: Context, config: Tokenization) -> Outcome:
    """Tokenize a text; keep files that are already complete.

    The metrics are ``tokens`` and ``documents`` of the training split. The manifest is written
    last; ``details`` has the first samples as text.

    Raises:
        ValueError: if the text, or the tokenizer, is unusable.
    """
    # Read by the library when it encodes for the first time.
    os.environ.setdefault("RAYON_NUM_THREADS", str(context.threads))
    with process_group(context):
        with raise_on_all_ranks():
            writer = TokenFilesWriter(context, config)
        writer.remove_stale_files()
        make_files(context, writer.folder, list(writer.parts), writer.write_part)
        manifest = on_rank0(writer.write_manifest)
        beginning = _beginning(context.directory, manifest, writer.tokenizer)
        for number, text in enumerate(beginning if context.rank == 0 else [], 1):
            log.info("document %d: %s", number, text)
        return Outcome(
            metrics={
                "tokens": manifest.total("train", "tokens"),
                "documents": manifest.total("train", "documents"),
            },
            steps=len(writer.parts),
            details={
                "tokenizer": manifest.tokenizer,
                "vocabulary": manifest.vocabulary,
                "held_out_tokens": manifest.total("held_out", "tokens"),
                "beginning": beginning,
                "data": writer.description(manifest),
            },
        )


class TokenFilesWriter:
    """Writer of the token files, each with a JSON note about its origin and its checksums.

    Attributes:
        parts: name of a note → the text it describes.
    """

    def __init__(self, context: Context, config: Tokenization) -> None:
        self.context, self.config = context, config
        self.folder = context.directory / FOLDER
        texts = _texts(context, config)
        self.parts = {f"{number:05d}.json": text for number, text in enumerate(texts)}
        self.tokenizer = self._tokenizer()
        # Computed once: the hash of a large vocabulary takes a second.
        self.identity = self.tokenizer.digest

    def _tokenizer(self) -> TextTokenizer:
        config = self.config
        if config.vocabulary is None:
            file = tokenizer_file(self.context.data["tokenizer"])
            tokenizer, origin = tokenizers_io.load(file), str(file)
        else:
            text = (d for part in self.parts.values() for d in part.read() if not self._held_out(d))
            tokenizer = tokenizers_io.train(text, config.vocabulary, bos=config.bos, eos=config.eos)
            origin = "the trained tokenizer"
        return TextTokenizer.of(tokenizer, bos=config.bos, eos=config.eos, origin=origin)

    def _held_out(self, document: str) -> bool:
        return is_held_out(document, self.config.held_out)

    def write_part(self, name: str, path: Path) -> None:
        """Write the token files of a text file, then its note to ``path``."""
        text = self.parts[name]
        splits: dict[Split, dict[str, Any]] = {}
        for split in SPLITS:
            splits[split] = {"name": _bin_name(name, split), "bytes": 0}
        vocabulary = self.tokenizer.vocabulary
        temporary = {split: path.with_name(f".{s['name']}.tmp") for split, s in splits.items()}
        with (
            TokenWriter(temporary["train"], vocabulary) as train,
            TokenWriter(temporary["held_out"], vocabulary) as held_out,
        ):
            chosen: list[Split] = []

            def read() -> Iterator[str]:
                for document in text.read():
                    split: Split = "held_out" if self._held_out(document) else "train"
                    chosen.append(split)
                    splits[split]["bytes"] += len(document.encode())
                    yield document

            writers: dict[Split, TokenWriter] = {"train": train, "held_out": held_out}
            for number, ids in enumerate(self.tokenizer.encode(read())):
                writers[chosen[number]].add(ids)
        for split, writer in writers.items():
            splits[split] |= {"tokens": writer.tokens, "documents": len(writer.lengths)}
            splits[split] |= self._rename(temporary[split], splits[split]["name"])
        write_json(path, {"origin": self._origin(text), "splits": splits})

    def _rename(self, temporary: Path, name: str) -> dict[str, str]:
        """Give both files their names; return their checksums."""
        index, path = index_file(temporary), self.folder / name
        checksums = {"sha256": digest(temporary), "index_sha256": digest(index)}
        temporary.replace(path)
        index.replace(index_file(path))
        return checksums

    def _origin(self, text: TextPart) -> str:
        config = self.config
        settings = f"{config.text_field} {config.bos} {config.eos} {config.held_out}"
        return digest_of((text.origin, self.identity, settings))

    def remove_stale_files(self) -> None:
        """Delete notes without undamaged files of the same origin; all processes call it."""
        names = list(self.parts)
        own = names[self.context.rank :: self.context.world_size]
        with raise_on_all_ranks():
            stale = [name for name in own if not self._is_current(name)]
        every = [name for of_rank in all_gather_objects(stale) for name in of_rank]
        existing = [path for name in every if (path := self.folder / name).exists()]
        on_rank0(lambda: remove_stale_files(self.context, existing))
        if existing and self.context.rank == 0:
            log.warning(
                "the tokens of %d text files are damaged, or of another text or tokenizer, and are "
                "written again",
                len(existing),
            )

    def _is_current(self, name: str) -> bool:
        note = self._read_note(name)
        if note is None or note["origin"] != self._origin(self.parts[name]):
            return False
        try:
            return all(
                digest(self.folder / split["name"]) == split["sha256"]
                and digest(index_file(self.folder / split["name"])) == split["index_sha256"]
                for split in note["splits"].values()
            )
        except FileNotFoundError:
            return False

    def _read_note(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / name, ("origin", "splits"))
        except DamagedFileError:
            return None

    def description(self, manifest: Manifest) -> str:
        """Return the name of the text, for tables, with its number of tokens."""
        text = self.context.data.get("text")
        counted = f"{manifest.total('train', 'tokens'):,} tokens"
        return counted if text is None else f"{text.name}, {counted}"

    def write_manifest(self) -> Manifest:
        """Write tokenizer, fingerprint and manifest after all files; call on rank 0."""
        notes = [self._read_note(name) for name in self.parts]
        splits = {
            split: tuple(Part(**note["splits"][split]) for note in notes if note is not None)
            for split in SPLITS
        }
        manifest = Manifest(
            version=VERSION,
            tokenizer=self.identity,
            vocabulary=self.tokenizer.vocabulary,
            bos=self.tokenizer.bos,
            eos=self.tokenizer.eos,
            splits=splits,
        )
        if not manifest.total("train", "tokens"):
            raise ValueError("the text has no documents to train on; add text, or lower held_out")
        with self.context.atomic_write(f"{FOLDER}/{TOKENIZER}") as temporary:
            self.tokenizer.tokenizer.save(str(temporary))
        self.context.write_fingerprint(
            weights=manifest.tokenizer,
            batches=[digest_of(part.sha256 for part in splits[split]) for split in SPLITS],
        )
        self.context.write_json(f"{FOLDER}/{MANIFEST}", manifest.as_json())
        return manifest


def _bin_name(note: str, split: Split) -> str:
    return f"{split}-{Path(note).stem}.bin"


def _texts(context: Context, config: Tokenization) -> list[TextPart]:
    for name in config.data:
        if name in EMBEDDED:
            return [TextPart(origin=name, read=partial(_embedded, name))]
    folder = context.data["text"]

    def part(file: Path) -> TextPart:
        status = file.stat()
        origin = f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}"
        return TextPart(origin=origin, read=lambda: documents(file, config.text_field))

    return [part(file) for file in list_text_files(folder)]


def _embedded(name: str) -> Iterator[str]:
    """Return the documents of an embedded text."""
    return iter(EMBEDDED[name]())


def _beginning(run: Path, manifest: Manifest, tokenizer: TextTokenizer) -> list[str]:
    """Return the beginnings of the first documents, decoded from the token files."""
    stream = TokenStream(run, manifest, "train")
    ends = stream.files[0].document_ends()[:SHOWN_SAMPLES].tolist()
    starts = [0, *ends[:-1]] if ends else []
    shown = []
    for start, end in zip(starts, ends, strict=True):
        ids = stream.read(start, min(end - start, SHOWN_CHARACTERS)).tolist()
        text = tokenizer.tokenizer.decode(ids, skip_special_tokens=False)
        shown.append(text[:SHOWN_CHARACTERS])
    return shown
