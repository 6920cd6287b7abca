"""Encoding of a data set into latents, once for all runs: the task ``dyt_dit.latents:encode``.

Without this cache, every epoch of every arm and seed would re-encode all images. The files store
the posterior, not a sample of it, also for the mirror image, so training sees the same distribution
as with the autoencoder in the loop.

A file is an array of float16, (images, flips, 2, C, H, W): the image and, if flips is 2, its mirror
image; mean and standard deviation, unscaled. ImageNet at 256 × 256 takes 43 GB. Float16 changes a
value by at most 1/2048 of it: about 0.0002 for scaled latents, whose variance is about one. The
smallest noise that the diffusion adds, in its first step, has a standard deviation of 0.01.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.config import Encoding
from dyt_dit.deterministic_math import deterministic_float32
from dyt_dit.images import SPLITS, Batch, Reader, Split, open_split
from dyt_dit.latent_cache import FOLDER, MANIFEST, VERSION, File, Manifest, SplitFiles
from dyt_vision.image_data import max_unreadable
from matched.files import DamagedFileError, read_json, write_json
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks
from matched.training.file_tasks import digest, make_files, remove_stale_files
from matched.training.fingerprint import digest_of

log = logging.getLogger("matched")
MAX_NAMED = 3
"""Maximum number of files that an error message names."""


def encode(context: Context, config: Encoding) -> Outcome:
    """Encode the images of a data set; keep files that are already complete.

    The metric is ``images``, the number of images of both splits. The manifest is written last.

    Raises:
        ValueError: if the autoencoder or the images are unusable.
    """
    with process_group(context) as device, deterministic_float32():
        with raise_on_all_ranks():
            encoder = LatentEncoder(context, config, device)
        on_rank0(encoder.remove_stale_latents)
        checksums = make_files(context, encoder.folder, list(encoder.files), encoder.write_file)
        manifest = on_rank0(lambda: encoder.write_manifest(checksums))
        splits = manifest.splits
        return Outcome(
            metrics={"images": sum(files.images for files in splits.values())},
            steps=len(encoder.files),
            details={
                "autoencoder": manifest.checksum,
                **{split: files.images for split, files in splits.items()},
                "left_out": [name for files in splits.values() for name in files.left_out],
            },
        )


@dataclass(frozen=True, kw_only=True)
class ImageRange:
    """The images of one file: ``start`` to before ``stop`` of a split."""

    split: Split
    start: int
    stop: int


class LatentEncoder:
    """Writer of the files of latents, each with a JSON note about its origin.

    The note identifies the images and the autoencoder that a file was made from, so that a resumed
    run can detect stale files, and lists the images that were left out.

    Attributes:
        files: name of a file → its images.
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
        size = config.images_per_file
        self.files = {
            f"{split}-{number:05d}.npy": ImageRange(
                split=split, start=start, stop=min(start + size, len(images))
            )
            for split, images in self.images.items()
            for number, start in enumerate(range(0, len(images), size))
        }
        self.readers: dict[Split, Reader] = {}

    def write_file(self, name: str, path: Path) -> None:
        """Write one file, after its note.

        Raises:
            ValueError: if images cannot be read or latents are not finite.
        """
        images = self.files[name]
        flips = 2 if self.config.flip and images.split == "train" else 1
        shape = (images.stop - images.start, flips, 2, self.channels, self.side, self.side)
        latents, count, left_out = np.empty(shape, np.float16), 0, []
        for batch in self._reader(images.split).read(images.start, images.stop):
            for index, reason in batch.unreadable.items():
                left_out.append(index)
                self._leave_out(images.split, reason, left_out, name)
            if batch.indices:
                rows = self._encode_batch(batch, images.split, flips)
                latents[count : count + len(rows)] = rows
                count += len(rows)
        _, note = self._paths(name)
        write_json(note, {"origin": self._origin(images), "left_out": left_out})
        with path.open("wb") as file:
            np.save(file, latents[:count])

    def _encode_batch(self, batch: Batch, split: Split, flips: int) -> np.ndarray:
        """Encode a batch; return float16 (B, flips, 2, C, h, w)."""
        views = (batch.images, batch.images.flip(-1))[:flips]
        moments = [torch.stack(self.autoencoder.encode(view)) for view in views]
        rows = rearrange(moments, "flip moment b c h w -> b flip moment c h w").half().cpu()
        not_finite = ~rows.flatten(1).isfinite().all(1)
        if not_finite.any():
            image = self.images[split].name(batch.indices[int(not_finite.int().argmax())])
            raise ValueError(
                f"the latents of {image} are not finite in float16, whose range Stable Diffusion's "
                "latents are far from exceeding; the autoencoder's weights may be damaged"
            )
        return rows.numpy()

    def _reader(self, split: Split) -> Reader:
        if split not in self.readers:
            # Replaces the reader of the other split and ends its processes.
            self.readers = {
                split: Reader(
                    self.images[split],
                    batch=self.config.batch,
                    num_workers=self.context.num_workers,
                )
            }
        return self.readers[split]

    def _leave_out(self, split: Split, reason: str, own: list[int], name: str) -> None:
        if split == "held_out":
            raise ValueError(f"{reason}. Held-out images cannot be left out: replace or delete it")
        log.warning("%s; it is left out", reason)
        other_files = [other for other in self.files if other != name]
        earlier = [index for other in other_files for index in self._left_out(other, split)]
        self._check_left_out(split, [*earlier, *own])

    def _check_left_out(self, split: Split, left_out: list[int]) -> None:
        images = self.images[split]
        limit = max_unreadable(len(images))
        if len(left_out) > limit:
            names = ", ".join(images.name(index) for index in sorted(left_out)[:MAX_NAMED])
            raise ValueError(
                f"{len(left_out)} of {len(images)} images of the training set cannot be read so "
                f"far, and at most {limit} may be left out: {names}. Replace or delete them"
            )

    def _left_out(self, name: str, split: Split) -> list[int]:
        """Return the indices of the images missing in a file; none if it is of another split."""
        note = self._read_note(name) if self.files[name].split == split else None
        return note["left_out"] if note else []

    def remove_stale_latents(self) -> None:
        """Delete files made from other images or by another autoencoder; call on rank 0.

        Replacing an image makes its file stale; deleting one makes all later files stale as well.
        """
        stale = [
            name
            for name, images in self.files.items()
            if any(path.exists() for path in self._paths(name)) and not self._is_from(name, images)
        ]
        remove_stale_files(self.context, (path for name in stale for path in self._paths(name)))
        if stale:
            log.warning(
                "%d files of latents were made from other images or by another autoencoder and are "
                "written again",
                len(stale),
            )

    def _is_from(self, name: str, images: ImageRange) -> bool:
        note = self._read_note(name)
        return note is not None and note["origin"] == self._origin(images)

    def _origin(self, images: ImageRange) -> str:
        digest_of_images = self.images[images.split].digest(images.start, images.stop)
        return digest_of((self.autoencoder.checksum, digest_of_images))

    def _paths(self, name: str) -> tuple[Path, Path]:
        """Return the paths of a file and of its note."""
        path = self.folder / name
        return path, path.with_suffix(".json")

    def _read_note(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self._paths(name)[1], ("origin", "left_out"))
        except DamagedFileError:
            return None

    def write_manifest(self, checksums: dict[str, str]) -> Manifest:
        """Write labels, fingerprint and manifest after all files; call on rank 0.

        Args:
            checksums: name → SHA-256 of every file.
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
            splits={split: self._split_files(split, checksums) for split in SPLITS},
        )
        self.context.write_fingerprint(
            weights=manifest.checksum,
            batches=[files.digest for files in manifest.splits.values()],
        )
        self.context.write_json(f"{FOLDER}/{MANIFEST}", asdict(manifest))
        return manifest

    def _split_files(self, split: Split, checksums: dict[str, str]) -> SplitFiles:
        images = self.images[split]
        ranges = {name: range_ for name, range_ in self.files.items() if range_.split == split}
        left_out = {name: self._left_out(name, split) for name in ranges}
        all_left_out = sorted(index for indices in left_out.values() for index in indices)
        self._check_left_out(split, all_left_out)  # each process may have left out a few
        count = len(images) - len(all_left_out)
        labels = self.folder / f"{split}-labels.npy"
        with (
            self.context.atomic_write(f"{FOLDER}/{labels.name}") as temporary,
            temporary.open("wb") as file,
        ):
            np.save(file, np.delete(np.array(images.targets, np.int64), all_left_out))
        return SplitFiles(
            files=tuple(
                File(
                    name=name,
                    sha256=checksums[name],
                    images=range_.stop - range_.start - len(left_out[name]),
                )
                for name, range_ in ranges.items()
            ),
            labels=File(name=labels.name, sha256=digest(labels), images=count),
            classes=images.classes,
            left_out=tuple(images.name(index) for index in all_left_out),
            digest=images.digest(),
        )
