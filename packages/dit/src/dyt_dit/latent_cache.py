"""Latent cache: the output of an ``Encoding`` run, verified and read as a data set for training.

latents/manifest.json in the run directory lists every file with its checksum.
"""

from __future__ import annotations

import resource
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dyt_dit.autoencoder import weights_checksum
from dyt_dit.config import Autoencoder, Network
from dyt_dit.images import Split
from matched.files import DamagedFileError, read_json
from matched.task import Context
from matched.training.distributed import all_gather_objects, on_rank0, raise_on_all_ranks
from matched.training.file_tasks import digest

FOLDER = "latents"
MANIFEST = "manifest.json"
VERSION = 1
OTHER_OPEN_FILES = 1024
"""Number of files that a process may have open in addition to the files of latents."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the cache, its checksum, and the number of images in it."""

    name: str
    sha256: str
    images: int


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """Files of one split.

    Attributes:
        files: files of latents, in the order of the images.
        labels: file of labels, int64 (images,).
        classes: number of classes of the image set.
        left_out: names of images that could not be read.
        digest: digest of the image set.
    """

    files: tuple[File, ...]
    labels: File
    classes: int
    left_out: tuple[str, ...]
    digest: str

    @property
    def images(self) -> int:
        return self.labels.images


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a latent cache.

    Attributes:
        version: version of the layout.
        kind, checksum, scaling: those of the autoencoder.
        image_size: height and width of the images in pixels.
        channels, side: shape of the latents, (channels, side, side).
        flip: True if the mirror images of the training images are included.
        splits: split → its files.
    """

    version: int
    kind: Autoencoder
    checksum: str
    scaling: float
    image_size: int
    channels: int
    side: int
    flip: bool
    splits: Mapping[Split, SplitFiles]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in a run directory.

        Raises:
            ValueError: if it is missing or damaged.
        """
        path = folder / FOLDER / MANIFEST
        try:
            content = read_json(path, [field.name for field in fields(cls)])
            if content is None:
                raise DamagedFileError(f"{path} is missing")
            if content["version"] != VERSION:
                raise DamagedFileError(
                    f"{path} has version {content['version']}; expected {VERSION}"
                )
            splits = {split: _split_files(entry) for split, entry in content.pop("splits").items()}
            return cls(**content, splits=splits)
        except DamagedFileError as error:
            raise ValueError(f"{error}. {_remedy(folder)} to write it again") from None


def _split_files(entry: dict[str, Any]) -> SplitFiles:
    return SplitFiles(
        files=tuple(File(**file) for file in entry.pop("files")),
        labels=File(**entry.pop("labels")),
        left_out=tuple(entry.pop("left_out")),
        **entry,
    )


def _remedy(folder: Path) -> str:
    return f"Delete {folder / 'result.json'} and submit again"


_verified: set[tuple[Path, str]] = set()
"""(run directory, checksum of its manifest) of the caches that this process has verified."""


def open_cache(
    context: Context,
    folder: Path,
    *,
    autoencoder_folder: Path | None,
    network: Network,
    flip: float,
) -> Manifest:
    """Verify that a cache is complete and fits a training; call on all processes of the run.

    Each process verifies its share of the files, and does so only once per cache.

    Args:
        folder: directory of the encoding run.
        autoencoder_folder: path of the source "sd-vae" on this machine; None for pixels.
        flip: probability that training takes an image's mirror image.

    Raises:
        ValueError: if a file is missing or damaged, the latents were made by another autoencoder,
            or they do not fit the network.
    """
    manifest = on_rank0(lambda: Manifest.read(folder))
    _check_fit(manifest, folder, network, flip)
    on_rank0(lambda: _check_autoencoder(manifest, folder, autoencoder_folder))
    with raise_on_all_ranks():
        key = (folder.resolve(), digest(folder / FOLDER / MANIFEST))
    if not all(all_gather_objects(key in _verified)):
        _check_files(context, manifest, folder)
        _verified.add(key)
    return manifest


def _check_fit(manifest: Manifest, folder: Path, network: Network, flip: float) -> None:
    actual, expected = (
        f"{channels} × {side} × {side}"
        for channels, side in (
            (manifest.channels, manifest.side),
            (network.channels, network.input_size),
        )
    )
    if actual != expected:
        raise ValueError(
            f"the latents in {folder}, of images of {manifest.image_size} pixels, are {actual}; "
            f"the network expects {expected}. Choose another image_size for the encoding, or "
            "another input_size (and channels) for the network"
        )
    classes = manifest.splits["train"].classes
    if classes != network.classes:
        raise ValueError(
            f"the latents in {folder} have {classes} classes, at {manifest.image_size} pixels; "
            f"the network expects {network.classes} (classes)"
        )
    if flip > 0 and not manifest.flip:
        raise ValueError(
            f"flip is {flip}, but the latents in {folder} include no mirror images; set flip to 0 "
            "or encode with flip=True"
        )


def _check_autoencoder(manifest: Manifest, folder: Path, autoencoder: Path | None) -> None:
    if manifest.kind == "pixels":
        return
    if autoencoder is None:
        raise ValueError(
            f'the latents in {folder} were made by an autoencoder; add "sd-vae" to the run\'s '
            "data, so that its weights can be compared"
        )
    checksum = weights_checksum(autoencoder)
    if checksum != manifest.checksum:
        raise ValueError(
            f"the latents in {folder} were made by another autoencoder: its SHA-256 is "
            f"{manifest.checksum}, and that of the one in {autoencoder} is {checksum}. Set "
            f"`sd-vae` under [data] in site.toml to the former, or delete {folder} and submit "
            "again to encode all images with the latter"
        )


def _check_files(context: Context, manifest: Manifest, folder: Path) -> None:
    files = [file for split in manifest.splits.values() for file in (*split.files, split.labels)]
    with raise_on_all_ranks():
        own = {
            file.name: _digest(folder / FOLDER / file.name)
            for file in files[context.rank :: context.world_size]
        }
    checksums = {name: value for rank in all_gather_objects(own) for name, value in rank.items()}
    for file in files:
        path, checksum = folder / FOLDER / file.name, checksums[file.name]
        remedy = f"{_remedy(folder)} to write only this file again"
        if checksum is None:
            raise ValueError(f"{path} is missing. {remedy}")
        if checksum != file.sha256:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is {checksum}; expected {file.sha256}. {remedy}"
            )


def _digest(path: Path) -> str | None:
    try:
        return digest(path)
    except FileNotFoundError:
        return None


class Latents(Dataset[Any]):
    """Data set of a split's latents: scaled samples of the autoencoder's posterior, and labels.

    An item draws from torch's global generator: first, if mirror images are encoded, which of the
    two views to take, then the noise of the posterior.

    Args:
        folder: directory of the encoding run; see ``open_cache``.
        flip: probability of taking an image's mirror image.
    """

    def __init__(self, folder: Path, split: Split, flip: float = 0.0) -> None:
        manifest = Manifest.read(folder)
        files = manifest.splits[split]
        self.files = [folder / FOLDER / file.name for file in files.files]
        self.ends = list(accumulate(file.images for file in files.files))
        self.targets = np.load(folder / FOLDER / files.labels.name)
        self.scaling = manifest.scaling
        self.flip = flip
        _allow_open_files(len(self.files))
        self.mapped: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a latent, float32 (C, H, W), and its label, int64 ()."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        start = self.ends[number - 1] if number else 0
        views = self._file(number)[index - start]
        mirrored = len(views) > 1 and torch.rand(()).item() < self.flip
        mean, std = torch.from_numpy(np.array(views[int(mirrored)], np.float32))
        latent = (mean + std * torch.randn(mean.shape)) * self.scaling
        return latent, torch.tensor(self.targets[index])

    def _file(self, number: int) -> np.ndarray:
        if number not in self.mapped:
            self.mapped[number] = np.load(self.files[number], mmap_mode="r")
        return self.mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the memory-mapped files, which pickling would copy into memory."""
        return self.__dict__ | {"mapped": {}}


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files of this process if ``count`` mapped files would exceed it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
