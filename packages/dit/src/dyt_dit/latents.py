"""Latents of all images of a data set, encoded once: the task ``dyt_dit.latents:encode``.

Every epoch of every arm and seed would otherwise encode the same images again. What is stored is
the posterior, not a sample of it, and that of the mirror image too, so that training sees what it
would see with the autoencoder at its side.

A file holds so many images one after the other: an array of float16, (images, flips, 2, C, H, W):
the image and, where training mirrors, its mirror image; mean and standard deviation, unscaled.
ImageNet at 256 × 256 takes 43 GB. Float16 moves a value by 1/2048 of it at most: of scaled
latents, whose variance is about one, some 0.0002. The least noise that the diffusion adds, in its
first step, has a standard deviation of 0.01.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.config import Encoding
from dyt_dit.exactness import exact
from dyt_dit.images import SPLITS, Batch, Reader, Split, open_split
from dyt_dit.latent_cache import FOLDER, MANIFEST, VERSION, File, Manifest, Part
from dyt_vision.image_data import max_unreadable
from matched.files import DamagedFileError, read_json, write_json
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import digest, make_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
NAMED = 3
"""Files that a message about many of them names."""


def encode(context: Context, config: Encoding) -> Outcome:
    """Encode the images of a data set; files that are whole already are left as they are.

    The metric is ``images``, those of both splits. The manifest is written last.

    Raises:
        ValueError: if the autoencoder or the images are not what they have to be.
    """
    with process_group(context) as device, exact():
        with raise_on_all_ranks():
            encoder = Encoder(context, config, device)
        on_rank0(encoder.forget_what_is_stale)
        sums = make_files(context, encoder.folder, list(encoder.pieces), encoder.make)
        manifest = on_rank0(lambda: encoder.conclude(sums))
        parts = manifest.parts
        return Outcome(
            metrics={"images": sum(part.images for part in parts.values())},
            steps=len(encoder.pieces),
            details={
                "autoencoder": manifest.checksum,
                **{split: part.images for split, part in parts.items()},
                "left_out": [name for part in parts.values() for name in part.left_out],
            },
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The images of one file."""

    split: Split
    start: int
    stop: int


class Encoder:
    """Makes the files of latents, and beside each a note of what it was made of.

    A note tells a file that was made before an interruption from one that would be made now, of
    other images or by another autoencoder, and which images are not in it.
    """

    def __init__(self, context: Context, config: Encoding, device: torch.device) -> None:
        self.context, self.config = context, config
        self.folder = context.directory / FOLDER
        vae = context.data.get("sd-vae") if config.autoencoder == "kl" else None
        self.autoencoder = open_autoencoder(config.autoencoder, vae, device)
        self.channels, self.side = self.autoencoder.shape(config.image_size)
        (data,) = (name for name in config.data if name != "sd-vae")
        self.images = {
            split: open_split(data, context.data.get(data), split, config.image_size)
            for split in SPLITS
        }
        self.pieces = {
            f"{split}-{number:05d}.npy": Piece(
                split=split, start=start, stop=min(start + config.shard, len(images))
            )
            for split, images in self.images.items()
            for number, start in enumerate(range(0, len(images), config.shard))
        }
        self.readers: dict[Split, Reader] = {}

    def make(self, name: str, path: Path) -> None:
        """Write one file, after its note.

        Raises:
            ValueError: for images that cannot be read, and latents that are no numbers.
        """
        piece = self.pieces[name]
        flips = 2 if self.config.flip and piece.split == "train" else 1
        shape = (piece.stop - piece.start, flips, 2, self.channels, self.side, self.side)
        latents, count, left_out = np.empty(shape, np.float16), 0, []
        for batch in self._reader(piece.split).read(piece.start, piece.stop):
            for index, why in batch.unreadable.items():
                left_out.append(index)
                self._leave_out(piece.split, why, left_out, name)
            if batch.indices:
                rows = self._encoded(batch, piece.split, flips)
                latents[count : count + len(rows)] = rows
                count += len(rows)
        _, note = self._paths(name)
        write_json(note, {"origin": self._origin(piece), "left_out": left_out})
        with path.open("wb") as file:
            np.save(file, latents[:count])

    def _encoded(self, batch: Batch, split: Split, flips: int) -> np.ndarray:
        """float16 (B, flips, 2, C, h, w)."""
        views = (batch.images, batch.images.flip(-1))[:flips]
        moments = [torch.stack(self.autoencoder.encode(view), dim=1) for view in views]
        rows = torch.stack(moments, dim=1).half().cpu()
        wrong = ~rows.flatten(1).isfinite().all(1)
        if wrong.any():
            image = self.images[split].name(batch.indices[int(wrong.int().argmax())])
            raise ValueError(
                f"the latents of {image} are not finite in float16, which Stable Diffusion's are "
                "far from; are the autoencoder's weights damaged?"
            )
        return rows.numpy()

    def _reader(self, split: Split) -> Reader:
        if split not in self.readers:
            # In place of the other split's, whose processes end.
            self.readers = {
                split: Reader(
                    self.images[split],
                    batch=self.config.batch,
                    num_workers=self.context.num_workers,
                )
            }
        return self.readers[split]

    def _leave_out(self, split: Split, why: str, own: list[int], name: str) -> None:
        if split == "held_out":
            raise ValueError(f"{why}. A held-out image is not left out: replace it, or delete it")
        log.warning("%s; it is left out", why)
        others = [index for n in self.pieces if n != name for index in self._left_out(n, split)]
        self._check_left_out(split, [*others, *own])

    def _check_left_out(self, split: Split, left_out: list[int]) -> None:
        images = self.images[split]
        most = max_unreadable(len(images))
        if len(left_out) > most:
            named = ", ".join(images.name(index) for index in sorted(left_out)[:NAMED])
            raise ValueError(
                f"{len(left_out)} images of the training set cannot be read so far, of "
                f"{len(images)}; {most} may be left out: {named}. Replace them, or delete them"
            )

    def _left_out(self, name: str, split: Split) -> list[int]:
        """The images that the file of this name lacks, if it is of that split."""
        note = self._note(name) if self.pieces[name].split == split else None
        return note["left_out"] if note else []

    def forget_what_is_stale(self) -> None:
        """Delete files that were made of other images or by another autoencoder; on one process.

        An image that was replaced or deleted since changes the files from its own on.
        """
        stale = [
            name
            for name, piece in self.pieces.items()
            if any(path.exists() for path in self._paths(name)) and not self._is_of(name, piece)
        ]
        for path in (path for name in stale for path in self._paths(name)):
            self.context.owned_path(f"{FOLDER}/{path.name}").unlink(missing_ok=True)
        if stale:
            log.warning(
                "%d files of latents were made of other images or by another autoencoder, and are "
                "made anew",
                len(stale),
            )

    def _is_of(self, name: str, piece: Piece) -> bool:
        note = self._note(name)
        return note is not None and note["origin"] == self._origin(piece)

    def _origin(self, piece: Piece) -> str:
        made_of = self.images[piece.split].digest(piece.start, piece.stop)
        return digest_of((self.autoencoder.checksum, made_of))

    def _paths(self, name: str) -> tuple[Path, Path]:
        """A file, and its note."""
        path = self.folder / name
        return path, path.with_suffix(".json")

    def _note(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self._paths(name)[1], ("origin", "left_out"))
        except DamagedFileError:
            return None

    def conclude(self, sums: dict[str, str]) -> Manifest:
        """Write labels, fingerprint and manifest, when all files are there; on one process.

        Args:
            sums: name → SHA-256 of every file.
        """
        manifest = Manifest(
            version=VERSION,
            kind=self.autoencoder.kind,
            checksum=self.autoencoder.checksum,
            scaling=self.autoencoder.scaling,
            image_size=self.config.image_size,
            channels=self.channels,
            side=self.side,
            flip=self.config.flip,
            parts={split: self._part(split, sums) for split in SPLITS},
        )
        self.context.write_fingerprint(
            weights=manifest.checksum, batches=[part.digest for part in manifest.parts.values()]
        )
        self.context.write_json(f"{FOLDER}/{MANIFEST}", asdict(manifest))
        return manifest

    def _part(self, split: Split, sums: dict[str, str]) -> Part:
        images = self.images[split]
        pieces = {name: piece for name, piece in self.pieces.items() if piece.split == split}
        left_out = {name: self._left_out(name, split) for name in pieces}
        every = sorted(index for indices in left_out.values() for index in indices)
        self._check_left_out(split, every)  # two processes may have met one each
        labels = self.folder / f"{split}-labels.npy"
        with (
            self.context.atomic_write(f"{FOLDER}/{labels.name}") as temporary,
            temporary.open("wb") as file,
        ):
            np.save(file, np.delete(np.array(images.targets, np.int64), every))
        return Part(
            files=tuple(
                File(
                    name=name,
                    sha256=sums[name],
                    images=piece.stop - piece.start - len(left_out[name]),
                )
                for name, piece in pieces.items()
            ),
            labels=File(name=labels.name, sha256=digest(labels), images=len(images) - len(every)),
            classes=images.classes,
            left_out=tuple(images.name(index) for index in every),
            digest=images.digest(),
        )
