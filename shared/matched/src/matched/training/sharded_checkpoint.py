"""Sharded checkpoints: a folder that each process writes its part to and reads its part from.

They use torch.distributed.checkpoint, which unpickles what it finds without restrictions: a folder
that somebody else can write to could run any code. Here only tensors (with weights_only) and the
few classes that describe where they are stored are unpickled.
"""

from __future__ import annotations

import copyreg
import io
import math
import os
import pickle
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.tensor import DTensor

from matched.training.checksums import verify_checksums
from matched.training.training_state import TensorLayout, TrainingState

PLAIN_FILE = "rest.pt"
"""File of the plain values."""
METADATA_FILE = ".metadata"
"""File that describes where the parts of each tensor are stored."""
ALLOWED_CLASSES = {
    (allowed.__module__, allowed.__qualname__): allowed
    for allowed in (
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


def _reduce_frame(frame: traceback.FrameSummary) -> tuple[Any, ...]:
    return traceback.FrameSummary, (frame.filename, frame.lineno, frame.name)


# torch sends an error with its traceback to the other processes. In Python 3.14 the frames of a
# traceback have their code objects, which cannot be pickled.
copyreg.pickle(traceback.FrameSummary, _reduce_frame)


class UnexpectedMetadataError(ValueError):
    """The metadata of a checkpoint contains something that no checkpoint of this module has."""


def write_shard(folder: Path, state: TrainingState, group: dist.ProcessGroup | None = None) -> None:
    """Write this process's part of the tensors; all processes call it together.

    Args:
        group: process group to coordinate with, if it is called in a thread.

    Raises:
        OSError: on all of them, if one cannot write its part.
    """
    with _raise_first_failure():
        dcp.save(state.tensors, storage_writer=_Writer(folder), process_group=group)


def write_plain_values(folder: Path, state: TrainingState) -> None:
    """Write the plain values, which completes the folder; only one process calls it."""
    with (folder / PLAIN_FILE).open("wb") as file:
        torch.save(state.plain, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read(folder: Path, layout: TensorLayout) -> TrainingState:
    """Read this process's part of the folder; not a collective.

    Raises:
        Exception: any error of torch or the file system, if anything is missing or damaged.
    """
    verify_checksums(folder / PLAIN_FILE)
    plain = torch.load(folder / PLAIN_FILE, map_location="cpu", weights_only=True)
    reader = _Reader(folder)
    tensor_metadata = reader.read_metadata().state_dict_metadata
    tensors = {name: _empty_tensor(entry, layout(name)) for name, entry in tensor_metadata.items()}
    with _raise_first_failure(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return TrainingState(tensors=tensors, plain=plain)


def root_cause(error: BaseException) -> BaseException:
    """Return the system error that caused ``error``, which says more than torch's, or ``error``."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link
        link = link.__cause__ or link.__context__
    return error


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _raise_first_failure() -> Iterator[None]:
    """Raise the first failure that a CheckpointException wraps: the wrapper is not an Exception."""
    try:
        yield
    except dcp.CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _empty_tensor(entry: metadata.STORAGE_TYPES, like: torch.Tensor | None) -> torch.Tensor:
    """Allocate this process's part of a sharded tensor, or the full tensor.

    The learner's own tensor is not used: a folder that turns out to be damaged must leave the
    learner unchanged.
    """
    assert isinstance(entry, metadata.TensorStorageMetadata), "checked by _check_metadata"
    if isinstance(like, DTensor) and like.shape == entry.size:
        return torch.empty_like(like, dtype=entry.properties.dtype, requires_grad=False)
    return torch.empty(entry.size, dtype=entry.properties.dtype)


class _Writer(dcp.FileSystemWriter):
    def write_data(self, *args: Any) -> Any:
        try:
            return super().write_data(*args)
        except RuntimeError as error:
            # Only the error itself is sent to the other processes, not its cause.
            cause = root_cause(error)
            raise cause if isinstance(cause, OSError) else OSError(str(cause)) from None

    def storage_meta(self) -> None:
        """Store nothing about this machine: checkpoints may be moved and copied."""


class _Reader(dcp.FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / METADATA_FILE).open("rb") as file:
            self.metadata = _check_metadata(_Unpickler(file).load())

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self.metadata

    def read_data(self, plan: Any, planner: Any) -> Any:
        for index in {item.storage_index for item in plan.items}:
            storage = self.metadata.storage_data[index]
            with (Path(self.path) / storage.relative_path).open("rb") as file:
                file.seek(storage.offset)
                verify_checksums(io.BytesIO(file.read(storage.length)))
        return super().read_data(plan, planner)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (allowed := ALLOWED_CLASSES.get((module, name))) is not None:
            return allowed
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise UnexpectedMetadataError(f"it refers to {module}.{name}, which is not an allowed type")


def _check_metadata(loaded: Any) -> metadata.Metadata:
    """Return ``loaded`` if it describes complete tensors in files of its own folder.

    Raises:
        UnexpectedMetadataError: if it does not.
    """
    if not isinstance(loaded, metadata.Metadata):
        raise UnexpectedMetadataError(f"its metadata is of type {type(loaded).__name__}")
    for name, entry in loaded.state_dict_metadata.items():
        # Any other entry would be loaded with weights_only=False.
        if not isinstance(entry, metadata.TensorStorageMetadata):
            raise UnexpectedMetadataError(f"{name} is not a tensor but {type(entry).__name__}")
        if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size):
            raise UnexpectedMetadataError(f"parts of {name} are missing")
    for index, storage in loaded.storage_data.items():
        file = storage.relative_path
        if not isinstance(storage, filesystem._StorageInfo) or file != Path(file).name:
            raise UnexpectedMetadataError(f"{index.fqn} is in {file}, outside of the folder")
        if transforms := getattr(storage, "transform_descriptors", None):
            raise UnexpectedMetadataError(f"{index.fqn} is transformed by {transforms}")
    return loaded
