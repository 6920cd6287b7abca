"""Checkpoints of sharded models: a folder into which each process writes, and reads, its part.

torch.distributed.checkpoint does that, but unpickles what it finds with no restriction: a folder
that somebody else has written to could then run any code. Here nothing is unpickled but tensors
(weights_only) and the few classes that describe where they lie.
"""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.tensor import DTensor

from matched.training.training_state import TensorLayout, TrainingState

PLAIN = "rest.pt"
DESCRIPTION = ".metadata"
ALLOWED = {
    (known.__module__, known.__qualname__): known
    for known in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.TensorStorageMetadata,
        metadata.TensorProperties,
        metadata.ChunkStorageMetadata,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.Size,
        torch.serialization._get_layout,
    )
}


class Refused(ValueError):
    """The description of a folder's tensors has something in it that has no place there."""


def write_shard(folder: Path, state: TrainingState) -> None:
    """Write this process's part of the tensors; all processes call it together.

    Raises:
        OSError: on all of them, if one cannot write its part.
    """
    with _first_failure():
        dcp.save(state.tensors, storage_writer=_Writer(folder))


def write_plain_values(folder: Path, state: TrainingState) -> None:
    """Write what is no tensor, after which the folder is complete; one process calls it."""
    with (folder / PLAIN).open("wb") as file:
        torch.save(state.plain, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read(folder: Path, like: TensorLayout) -> TrainingState:
    """What this process needs of the folder; asks no other process for anything.

    Raises:
        Exception: of many kinds, if anything is missing or damaged.
    """
    plain = torch.load(folder / PLAIN, map_location="cpu", weights_only=True)
    reader = _Reader(folder)
    described = reader.read_metadata().state_dict_metadata
    tensors = {name: _room(entry, like(name)) for name, entry in described.items()}
    with _first_failure(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return TrainingState(tensors=tensors, plain=plain)


def underlying(error: BaseException) -> BaseException:
    """What the system said, where torch has but obscure words for it, or else the error itself."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link
        link = link.__cause__ or link.__context__
    return error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise what failed first, not what torch wraps it in: that is not even an Exception."""
    try:
        yield
    except dcp.CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _room(entry: metadata.TensorStorageMetadata, like: torch.Tensor | None) -> torch.Tensor:
    """Memory for this process's part of a tensor, or for all of it; the learner's is not touched.

    A folder that turns out to be damaged must leave the learner as it was.
    """
    if isinstance(like, DTensor) and like.shape == entry.size:
        return torch.empty_like(like, dtype=entry.properties.dtype, requires_grad=False)
    return torch.empty(entry.size, dtype=entry.properties.dtype)


class _Writer(dcp.FileSystemWriter):
    def write_data(self, *args: Any) -> Any:
        try:
            return super().write_data(*args)
        except RuntimeError as error:
            # The other processes are sent the error alone, without what is behind it.
            reason = underlying(error)
            raise reason if isinstance(reason, OSError) else OSError(str(reason)) from None

    def storage_meta(self) -> None:
        """Nothing of this machine: a folder is moved and copied."""


class _Reader(dcp.FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / DESCRIPTION).open("rb") as file:
            self.description = _checked(_Unpickler(file).load())

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self.description


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (known := ALLOWED.get((module, name))) is not None:
            return known
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise Refused(f"it wants {module}.{name}, which no checkpoint needs")


def _checked(found: Any) -> metadata.Metadata:
    """
    Raises:
        Refused: if ``found`` does not describe whole tensors in files of its own folder.
    """
    if not isinstance(found, metadata.Metadata):
        raise Refused(f"it holds a {type(found).__name__}")
    for name, entry in found.state_dict_metadata.items():
        # Anything else would be loaded with weights_only=False.
        if not isinstance(entry, metadata.TensorStorageMetadata):
            raise Refused(f"{name} is no tensor but a {type(entry).__name__}")
        if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size):
            raise Refused(f"there are not all pieces of {name}")
    for index, place in found.storage_data.items():
        file = place.relative_path
        if not isinstance(place, filesystem._StorageInfo) or file != Path(file).name:
            raise Refused(f"{index.fqn} lies in {file}, outside of the folder")
        if getattr(place, "transform_descriptors", None):
            raise Refused(f"{index.fqn} is transformed by {place.transform_descriptors}")
    return found
