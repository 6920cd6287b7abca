"""Latents that a run of ``Encoding`` has left, checked and read for training.

A run directory of it holds latents/manifest.json, which names every file and its checksum.
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
OTHER_FILES = 1024
"""Open files that a process may have besides those of latents."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the cache, its checksum, and of how many images it tells."""

    name: str
    sha256: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split.

    Attributes:
        files: of latents, in the order of the images.
        labels: a file of int64 (images,).
        classes: how many the image set has.
        left_out: names of images that could not be read.
        digest: of the image set.
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
    """What a cache of latents holds.

    Attributes:
        version: of the layout.
        kind, checksum, scaling: of the autoencoder.
        image_size: height and width of the images in pixels.
        channels, side: of the latents, (channels, side, side).
        flip: whether the training images' mirror images are there.
        parts: split → its files.
    """

    version: int
    kind: Autoencoder
    checksum: str
    scaling: float
    image_size: int
    channels: int
    side: int
    flip: bool
    parts: Mapping[Split, Part]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a run's directory.

        Raises:
            ValueError: if it is lost or damaged.
        """
        path = folder / FOLDER / MANIFEST
        try:
            content = read_json(path, [field.name for field in fields(cls)])
            if content is None:
                raise DamagedFileError(f"{path} is lost")
            if content["version"] != VERSION:
                raise DamagedFileError(
                    f"{path} is of version {content['version']}; expected {VERSION}"
                )
            parts = {split: _part(found) for split, found in content.pop("parts").items()}
            return cls(**content, parts=parts)
        except DamagedFileError as error:
            raise ValueError(f"{error}. {_remedy(folder)}, and it is written anew") from None


def _part(found: dict[str, Any]) -> Part:
    return Part(
        files=tuple(File(**file) for file in found.pop("files")),
        labels=File(**found.pop("labels")),
        left_out=tuple(found.pop("left_out")),
        **found,
    )


def _remedy(folder: Path) -> str:
    return f"Delete {folder / 'result.json'} and submit again"


_verified: set[tuple[Path, str]] = set()
"""Directories whose files this process has read through, and the checksums of their manifests."""


def open_cache(
    context: Context,
    folder: Path,
    *,
    autoencoder_folder: Path | None,
    network: Network,
    flip: float,
) -> Manifest:
    """See that a cache is whole, and what a training needs; called by all processes of the run.

    Each process reads its share of the files, once in its life.

    Args:
        folder: the directory of the encoding's run.
        autoencoder_folder: where the source "sd-vae" lies on this machine; None for pixels.
        flip: probability that training mirrors an image.

    Raises:
        ValueError: if a file is lost or damaged, another autoencoder has made the latents, or the
            network is for others.
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
    there, expected = (
        f"{channels} × {side} × {side}"
        for channels, side in (
            (manifest.channels, manifest.side),
            (network.channels, network.input_size),
        )
    )
    if there != expected:
        raise ValueError(
            f"the latents in {folder} are of images of {manifest.image_size} pixels, {there}; the "
            f"network expects {expected}. Choose another image_size for the encoding, or another "
            "input_size (and channels) for the network"
        )
    classes = manifest.parts["train"].classes
    if classes != network.classes:
        raise ValueError(
            f"the latents in {folder} are of {classes} classes, at {manifest.image_size} pixels; "
            f"the network expects {network.classes} (classes)"
        )
    if flip > 0 and not manifest.flip:
        raise ValueError(
            f"flip is {flip}, and the latents in {folder} are of no mirror images; set flip to 0, "
            "or encode them with flip=True"
        )


def _check_autoencoder(manifest: Manifest, folder: Path, autoencoder: Path | None) -> None:
    if manifest.kind == "pixels":
        return
    if autoencoder is None:
        raise ValueError(
            f'an autoencoder has made the latents in {folder}; add "sd-vae" to the run\'s data, '
            "to be compared with it"
        )
    found = weights_checksum(autoencoder)
    if found != manifest.checksum:
        raise ValueError(
            f"another autoencoder has made the latents in {folder}: its SHA-256 is "
            f"{manifest.checksum}, and that of the one in {autoencoder} is {found}. Set `sd-vae` "
            f"under [data] in site.toml to the former, or delete {folder} and submit again, to "
            "encode all images with the latter"
        )


def _check_files(context: Context, manifest: Manifest, folder: Path) -> None:
    files = [file for part in manifest.parts.values() for file in (*part.files, part.labels)]
    with raise_on_all_ranks():
        own = {
            file.name: _digest(folder / FOLDER / file.name)
            for file in files[context.rank :: context.world_size]
        }
    found = {name: value for values in all_gather_objects(own) for name, value in values.items()}
    for file in files:
        path, value = folder / FOLDER / file.name, found[file.name]
        remedy = f"{_remedy(folder)}, and this file alone is made anew"
        if value is None:
            raise ValueError(f"{path} is lost. {remedy}")
        if value != file.sha256:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is {value}; expected {file.sha256}. {remedy}"
            )


def _digest(path: Path) -> str | None:
    try:
        return digest(path)
    except FileNotFoundError:
        return None


class Latents(Dataset):
    """Latents of a split: samples of the autoencoder's posterior, scaled, and labels.

    An item draws from torch's global generator: whether it is mirrored, where mirror images are
    there, and then the noise of the posterior.

    Args:
        folder: the directory of the encoding's run; see ``open_cache``.
        flip: probability that an image's mirror image is taken.
    """

    def __init__(self, folder: Path, split: Split, flip: float = 0.0) -> None:
        manifest = Manifest.read(folder)
        part = manifest.parts[split]
        self.files = [folder / FOLDER / file.name for file in part.files]
        self.ends = list(accumulate(file.images for file in part.files))
        self.targets = np.load(folder / FOLDER / part.labels.name)
        self.scaling = manifest.scaling
        self.flip = flip
        _allow_open_files(len(self.files))
        self.mapped: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """float32 (C, H, W), and int64 ()."""
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
        """Without the mapped files, which a copy would hold in memory."""
        return self.__dict__ | {"mapped": {}}


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit where so many mapped files would go beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
